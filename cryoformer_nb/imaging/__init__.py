"""How an image is formed: CTF, density, projector, motion, simulator and its truth."""

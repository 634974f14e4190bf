"""From the files of RELION, cryoSPARC and cryoDRGN to a particle set, its masks, consensus and alignment."""

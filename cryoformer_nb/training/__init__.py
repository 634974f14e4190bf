"""Losses, the loop, and the run that comes out of it."""

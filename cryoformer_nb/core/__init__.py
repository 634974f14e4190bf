"""Axes, units, errors, files, Fourier transforms, rotations and FSC: what every other layer stands on."""

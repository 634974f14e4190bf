"""The network: hash volume, encoders, deformation transformer, poses."""

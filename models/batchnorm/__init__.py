"""Audit and recalibrate the BatchNorm layers of a torch network."""

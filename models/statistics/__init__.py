"""Running statistics of BatchNorm layers: hooks on the layers, and recalibration."""

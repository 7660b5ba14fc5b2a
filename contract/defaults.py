"""Defaults that the command, the Python API and the packages share; importing them costs nothing."""

PRIOR = 16.0
"""Samples that the statistics of training count for in an adaptation; compared with others by `make bench-adapt`."""

REPOSITORY = "model_repository"
"""Folder of models."""

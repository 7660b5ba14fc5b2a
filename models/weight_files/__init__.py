"""Weights files as training scripts write them: read without running code, and loaded into a network."""

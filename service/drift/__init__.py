"""Drift: compare a sample of the live inputs with the statistics of training."""

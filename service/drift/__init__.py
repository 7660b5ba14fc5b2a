"""Compare live inputs with the statistics of training."""

"""The sums of shadows, and the metrics of shadows and canaries."""

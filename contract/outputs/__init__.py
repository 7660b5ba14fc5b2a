"""What the outputs of a network mean, and the names of metrics."""

"""Tasks of training: loss, metrics, and the meaning of a network's outputs."""

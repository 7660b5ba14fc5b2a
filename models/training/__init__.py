"""Training of a network, and the run folder with its result."""

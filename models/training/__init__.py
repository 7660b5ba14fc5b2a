"""Train a network, and the run folder that a training leaves."""

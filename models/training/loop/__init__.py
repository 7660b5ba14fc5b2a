"""Parts of the training loop that are used by choice."""

"""Train, fold, verify, export and serve batch-normalised networks."""

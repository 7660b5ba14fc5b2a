"""Training that starts from other weights: which of them are taken, which layers are frozen, and at which rates."""

"""Ranges of activations: from samples, or from statistics alone."""

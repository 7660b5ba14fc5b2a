"""Compare the outputs of two models, beside their rounding noise."""

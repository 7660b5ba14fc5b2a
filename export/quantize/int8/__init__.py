"""int8: unsigned activations, signed weights for each channel, ranges from statistics or from samples."""

"""What becomes of weights and biases: scales, equalised channels, corrected means."""

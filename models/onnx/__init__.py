"""Export a torch network to an unfolded ONNX file."""

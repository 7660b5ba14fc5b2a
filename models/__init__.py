"""Batch-normalised networks, their training, and their way to ONNX (torch)."""

"""ONNX Runtime sessions, execution providers, and the limits of this process."""

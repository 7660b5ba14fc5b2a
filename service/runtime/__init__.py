"""ONNX Runtime sessions and providers, processor and memory limits."""

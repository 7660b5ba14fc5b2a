"""Commands on ONNX files."""

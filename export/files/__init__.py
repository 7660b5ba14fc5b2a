"""Whole commands on ONNX files: fold one into another, audit one."""

"""The fold, its verification, and the bundle (numpy, onnx, onnx-ir)."""

"""The fold, its proof, and the bundle (numpy, onnx, onnx-ir)."""

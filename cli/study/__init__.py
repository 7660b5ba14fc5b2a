"""The experiment of `normfold study` that needs training, export and ONNX Runtime together."""

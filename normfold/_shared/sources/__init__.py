"""What a user names as a model: a run folder, a bundle, an ONNX file, module:factory or a torch network."""

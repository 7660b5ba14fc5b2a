"""The REST service that runs folded models (onnxruntime, fastapi)."""

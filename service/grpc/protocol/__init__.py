"""The messages of the Open Inference Protocol and Triton's extensions: `inference.proto`, and what is made of it."""

"""Weights of layers: initializers, and integers behind a DequantizeLinear."""

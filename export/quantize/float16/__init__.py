"""Conversion of a float32 network to float16, by operator schema."""

"""Networks in lower precision: int8 and float16, and the proof of what they still compute."""

"""Networks of lower precision: int8 and float16, and the proof of how near they are to float32."""

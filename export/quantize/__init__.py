"""Networks in fewer bits: int8 and float16, and what is proven of them."""

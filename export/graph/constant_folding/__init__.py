"""Constant folding: what nodes compute of constants, and what follows from shapes, becomes an initializer."""

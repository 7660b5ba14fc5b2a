"""Batch statistics against running statistics while a network trains: figures, picture and warning."""

"""Reading of samples when they are needed, in worker processes."""

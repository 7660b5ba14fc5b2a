"""Find, load, switch and unload model versions."""

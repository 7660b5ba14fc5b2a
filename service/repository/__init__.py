"""The model repository: find, check, load, switch and unload versions of models."""

"""The requests of a load: their tensors, from a model's metadata or a file, and their bytes."""

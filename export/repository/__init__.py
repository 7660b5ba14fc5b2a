"""List, roll back and remove the versions of a model repository on disk."""

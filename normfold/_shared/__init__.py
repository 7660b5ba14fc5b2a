"""Code that several functions of the public API share."""

"""What several functions of the public API share."""

"""What training, export and serving agree on: the manifest, preprocessing, and the kinds of error."""

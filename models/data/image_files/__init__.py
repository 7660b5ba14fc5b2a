"""Folders of image files, with classes or masks."""

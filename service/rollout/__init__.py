"""Shadows and canaries: versions that are tried before they serve."""

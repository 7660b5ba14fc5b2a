"""Recalibrate a bundle's statistics from samples, fold again, verify and publish."""

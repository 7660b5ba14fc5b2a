"""Data sets: readers, splits and batches."""

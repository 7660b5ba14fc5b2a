"""Splits by class, group, time, or files of their own."""

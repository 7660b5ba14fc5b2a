"""Plots as files, drawn by matplotlib."""

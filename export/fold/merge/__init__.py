"""Merge several linear operators into one."""

"""Thin HTTP routes: parse, call, return."""

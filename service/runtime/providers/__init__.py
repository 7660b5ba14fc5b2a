"""Execution providers: a module for each that has options or checks of its own, and the table of all."""

"""Findings of an audit, and the checks that parameters alone allow."""

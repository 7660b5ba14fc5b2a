"""Experiments on claims about batch normalisation: the same networks trained on the digits with and without it."""

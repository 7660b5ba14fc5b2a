"""The claims about batch normalisation, measured on the digits: the same networks trained with and without it."""

"""The stages of a fold, in files by what they are about."""

"""The part of `normfold study` that composes training and export."""

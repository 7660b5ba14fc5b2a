"""One file for each command of `normfold`."""

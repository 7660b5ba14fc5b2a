"""The `normfold` command: one file for each command, which imports only the packages it needs."""

"""The `normfold` command: one file a command, each importing only the rooms it needs."""

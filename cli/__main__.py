"""`python -m cli`: the same as `normfold`, where the script is not on the path."""

from cli.main import main

main()

"""`python -m normfold`: the same as `normfold`, where the script is not on the path."""

from normfold.cli.entry import main

main()

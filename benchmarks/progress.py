"""What is being done, on a terminal's standard error, for runs that take minutes."""

from __future__ import annotations

import os
import sys


def tell(what: str) -> None:
    """Say on standard error what is being done."""
    if os.isatty(sys.stderr.fileno()):
        print(f"\r{what:78}", end="", file=sys.stderr, flush=True)

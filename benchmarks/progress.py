"""Progress of benchmarks that take minutes, on standard error if that is a terminal."""

from __future__ import annotations

import sys


def show_progress(step: str) -> None:
    """Replace the line of progress on a terminal."""
    if sys.stderr.isatty():
        print(f"\r{step:78}", end="", file=sys.stderr, flush=True)

"""Progress of long work, reported step by step to a callback."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[str], None]
"""Is called with each step as it begins, in a few words: "folding"."""


def ignore_progress(_step: str) -> None:
    """Do nothing: the default where a caller asks for no progress."""

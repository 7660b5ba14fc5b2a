"""How long work says what it is doing."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]
"""Called with what is being done, in a few words."""


def silent(_step: str) -> None:
    """Say nothing."""

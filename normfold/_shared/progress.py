"""How a function of the public API says what it is doing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from normfold.contract.progress import ProgressCallback, ignore_progress

Progress = bool | ProgressCallback
"""False shows nothing, True each step on standard error; a function is called with each step, in words."""


@contextmanager
def reporting(progress: Progress) -> Iterator[ProgressCallback]:
    """Give the function that is called with each step."""
    if callable(progress):
        yield progress
    elif progress:
        from normfold.display.terminal.console import err

        with err.status("starting") as status:
            yield status.update
    else:
        yield ignore_progress

"""Progress of the functions of the public API: shown on standard error, or passed to a function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from normfold._shared.argument_checks import PROGRESS, check
from normfold.contract.progress import ProgressCallback, ignore_progress

Progress = bool | ProgressCallback
"""False shows nothing, True each step on standard error; a function is called with each step, in words."""


@contextmanager
def progress_callback(progress: Progress) -> Iterator[ProgressCallback]:
    """Yield the function that is called with each step."""
    check(PROGRESS, progress=progress)
    if callable(progress):
        yield progress
    elif progress:
        from normfold.display.terminal.console import err

        with err.status("starting") as status:
            yield status.update
    else:
        yield ignore_progress

"""SIGTERM, as `docker stop` and `timeout` send it, handled like Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM; a KeyboardInterrupt, so that code that handles Ctrl-C handles it too."""


def exit_code(error: KeyboardInterrupt) -> int:
    """Return 128 + the signal's number, as shells do: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Raise Terminated at the first SIGTERM inside the block; further ones are ignored, so that clean-up can finish."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can handle signals in Python
        yield
        return

    def terminate(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # timeout sends it twice: to the process and to its group
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)

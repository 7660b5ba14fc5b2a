"""Being told to stop: by Ctrl-C, or by SIGTERM, as `docker stop` and `timeout` send it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM has come. What lets Ctrl-C through lets this through."""


def exit_code(error: KeyboardInterrupt) -> int:
    """Return 128 and the signal's number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


@contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated at the first SIGTERM, so that it ends as Ctrl-C does; a further one disturbs no clean-up."""
    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread hear signals
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # timeout sends it twice: to the process and to its group
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

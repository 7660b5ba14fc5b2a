"""SIGTERM, as `docker stop` and `timeout` send it, handled like Ctrl-C; and both of them while a service starts."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, Protocol


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


class Stoppable(Protocol):
    """A server that ends soon after `should_exit` is set."""

    should_exit: bool


class StopRequest:
    """SIGTERM and SIGINT ask a service to end with exit code 0, from its first moment on.

    The exception that a handler raises can be lost: Python ignores one in finalisers and in callbacks of weak
    references, as the import system has them, and libraries catch it. So the request is noted, too.

    Attributes:
        is_set: whether a signal has come.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._server: Stoppable | None = None

    def check(self) -> None:
        """Raise SystemExit if a signal has come: its own exception was lost."""
        if self.is_set:
            raise SystemExit(0)

    def hand_over(self, server: Stoppable) -> None:
        """From now on stop this server instead of raising an exception."""
        self._server = server
        self.check()

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        self.is_set = True
        if self._server is None:
            raise SystemExit(0)
        self._server.should_exit = True


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Yield a request that SIGTERM and SIGINT set inside the block."""
    request = StopRequest()
    before = {number: signal.signal(number, request.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_at_once() -> None:
    """End the process with exit code 0 on SIGTERM and SIGINT, while there is nothing to clean up."""

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        os._exit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)

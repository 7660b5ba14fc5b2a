"""Graceful shutdown: not ready at once, but serving until load balancers have stopped sending requests."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


def graceful_shutdown(stop: Callable[[], None], delay_s: float, end: Callable[[], None] = lambda: None) -> None:
    """Make SIGTERM and SIGINT call `stop` at once, and after a delay `end` and the handler that is installed now.

    A second signal is not delayed. Outside of the main thread, where Python allows no handlers, nothing is changed.

    Args:
        stop: makes the service report not ready.
        delay_s: seconds.
        end: ends what the handler does not; called in a signal handler or on the event loop, maybe more than once.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    loop, stopping = asyncio.get_running_loop(), False
    before: dict[int, Any] = {}

    def begin(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping or delay_s == 0:
            stop()
            finish(number, frame)
            return
        stopping = True
        stop()
        loop.call_soon_threadsafe(loop.call_later, delay_s, finish, number, frame)

    def finish(number: int, frame: FrameType | None) -> None:
        end()
        before[number](number, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.getsignal(number)
        if callable(before[number]):
            signal.signal(number, begin)

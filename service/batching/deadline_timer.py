"""One timer for the deadlines of all requests of a queue.

The timer enforces nothing itself. `Batcher._expire_overdue`, which it calls, fails the requests whose deadline has
passed, and `RequestQueue.form_batch` fails those that it meets before they join a batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter


class DeadlineTimer:
    """Calls a function at the earliest deadline that it was given; the event loop alone touches it.

    Args:
        on_deadline: called without arguments; it must schedule the next deadline if there is one.
    """

    __slots__ = ("_at", "_handle", "_on_deadline")

    def __init__(self, on_deadline: Callable[[], None]) -> None:
        self._on_deadline = on_deadline
        self._handle: asyncio.TimerHandle | None = None
        self._at = 0.0

    def schedule(self, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        """Call the function at a deadline (by perf_counter), unless it will be called earlier."""
        if self._handle is not None:
            if self._at <= deadline:
                return
            self._handle.cancel()
        self._at = deadline
        self._handle = loop.call_later(max(0.0, deadline - perf_counter()), self._expire)

    def cancel(self) -> None:
        """Call the function no more."""
        if self._handle is not None:
            self._handle.cancel()

    def _expire(self) -> None:
        self._handle = None
        self._on_deadline()

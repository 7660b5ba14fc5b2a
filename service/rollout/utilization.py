"""How busy this process is: a shadow runs only while the service has time to spare."""

from __future__ import annotations

import threading
from time import clock_gettime, perf_counter, process_time, thread_time

try:
    from time import pthread_getcpuclockid
except ImportError:  # macOS, Windows
    pthread_getcpuclockid = None  # type: ignore[assignment]

BUSY_UTILIZATION = 0.4
"""Part of its processors' time, or of one processor's time for the event loop, from which on a process is busy."""

WINDOW_S = 0.1
"""Seconds that utilization is measured over."""


class Utilization:
    """Measures the processor time of this process, without that of the thread that asks.

    One thread alone asks.

    Args:
        processors: that the process may use.
        event_loop: the thread of the event loop, which is busy by itself long before many processors are.
    """

    def __init__(self, processors: int, event_loop: threading.Thread) -> None:
        self._processors = processors
        ident = event_loop.ident
        has_clock = ident is not None and pthread_getcpuclockid is not None
        self._clock = pthread_getcpuclockid(ident) if has_clock and ident is not None else None
        self._loop_used = 0.0
        self._measured_at, self._used, self._loop_used = perf_counter(), process_time(), self._loop_time()
        self._own = 0.0
        self._is_busy = False

    def is_busy(self) -> bool:
        """Return whether the process was busy over the last WINDOW_S seconds or more."""
        now = perf_counter()
        elapsed = now - self._measured_at
        if elapsed >= WINDOW_S:
            used, own, loop_used = process_time(), thread_time(), self._loop_time()
            others = used - self._used - (own - self._own)
            self._is_busy = (
                others > BUSY_UTILIZATION * self._processors * elapsed
                or loop_used - self._loop_used > BUSY_UTILIZATION * elapsed
            )
            self._measured_at, self._used, self._own, self._loop_used = now, used, own, loop_used
        return self._is_busy

    def _loop_time(self) -> float:
        try:
            return 0.0 if self._clock is None else clock_gettime(self._clock)
        except OSError:  # the event loop's thread has ended, as the shadow's will at once
            return self._loop_used

"""The processor time that the load generator uses itself, within the measured window."""

from __future__ import annotations

from time import perf_counter, process_time


class ProcessorUsage:
    """Share of one core that this process uses in a window; `look` must be called again and again.

    Args:
        begin_s: of the window (perf_counter).
        end_s: of the window.
    """

    def __init__(self, begin_s: float, end_s: float) -> None:
        self._begin_s, self._end_s = begin_s, end_s
        self._first: tuple[float, float] | None = None
        self._last: tuple[float, float] | None = None

    def look(self) -> None:
        """Note the time, if it is in the window; the look after its end is the last."""
        now = perf_counter()
        if now < self._begin_s or (self._last is not None and self._last[0] >= self._end_s):
            return
        self._last = (now, process_time())
        self._first = self._first or self._last

    @property
    def share(self) -> float:
        """Share of one core; threads of a library can make it more than 1."""
        if self._first is None or self._last is None or self._first == self._last:
            return 0.0
        return (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])

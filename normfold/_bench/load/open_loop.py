"""An open loop: requests are due at times that do not depend on the answers, and latency counts from these times.

A request that finds no free connection waits, and its wait is a part of its latency. Otherwise a service that stalls
would receive fewer requests while it does, and few latencies would show it (coordinated omission; Gil Tene, "How NOT to
measure latency", 2013).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from time import perf_counter

import numpy as np

from normfold._bench.connections.connection import TIMEOUT, Connection, Failure
from normfold._bench.load.recorder import Recorder
from normfold._bench.load.timer import Timer

_GAPS = 4096
"""Random gaps that are made at a time."""


def due_times(rate: float, is_poisson: bool, begin_s: float, rng: np.random.Generator) -> Iterator[float]:
    """Yield the times at which requests are due, without an end.

    Args:
        rate: requests a second.
        is_poisson: gaps are exponentially distributed, as of many clients that know nothing of each other; otherwise
            they are equal.
        begin_s: the time of the first, of perf_counter.
        rng: the source of randomness.
    """
    if not is_poisson:
        yield from (begin_s + number / rate for number in count())
    at = begin_s
    while True:
        for gap in rng.exponential(1 / rate, _GAPS).tolist():
            at += gap
            yield at


class OpenLoop:
    """Requests at their times, over as many connections as they need.

    Args:
        make_connection: returns a new connection.
        max_connections: how many at most; requests wait while all are in use.
        messages: the requests' bytes, without an end.
        times: at which they are due.
        recorder: counts them, and says when they end.
    """

    def __init__(
        self,
        make_connection: Callable[[], Connection],
        max_connections: int,
        messages: Iterator[bytes],
        times: Iterator[float],
        recorder: Recorder,
    ) -> None:
        self._make_connection, self._max_connections = make_connection, max_connections
        self._messages, self._times, self._recorder = messages, times, recorder
        self._free: list[Connection] = []
        self._waiting: deque[float] = deque()
        self._timer = Timer(self._send_due)
        self._next_s = next(times)
        self.connections: list[Connection] = []

    @property
    def is_done(self) -> bool:
        """Whether the window is over, and every request has its end."""
        is_over = self._next_s >= self._recorder.end_s
        return is_over and not self._waiting and len(self._free) == len(self.connections)

    def start(self) -> None:
        """Wait for the first request's time."""
        self._timer.set(self._next_s)

    def give_up_late(self, timeout_s: float) -> None:
        """End the requests that have waited for a connection for longer than `timeout_s`."""
        limit = perf_counter() - timeout_s
        while self._waiting and self._waiting[0] < limit:
            self._recorder.finish(self._waiting.popleft(), Failure(TIMEOUT, False, "no free connection in time"))

    def close(self) -> None:
        """Send no more."""
        self._timer.close()

    def _send_due(self) -> None:
        """Send what is due, and wait for the next time."""
        now = perf_counter()
        while self._next_s <= now and self._next_s < self._recorder.end_s:
            due_s, self._next_s = self._next_s, next(self._times)
            self._recorder.begin(due_s)
            connection = self._free_connection()
            if connection is None:
                self._waiting.append(due_s)
            else:
                if self._recorder.is_inside(due_s):
                    self._recorder.delays_s.append(perf_counter() - due_s)
                self._send(connection, due_s)
        if self._next_s < self._recorder.end_s:
            self._timer.set(self._next_s)

    def _free_connection(self) -> Connection | None:
        if self._free:
            return self._free.pop()
        if len(self.connections) == self._max_connections:
            return None
        self.connections.append(self._make_connection())
        return self.connections[-1]

    def _send(self, connection: Connection, due_s: float) -> None:
        connection.send(next(self._messages), partial(self._finish, connection, due_s))

    def _finish(self, connection: Connection, due_s: float, failure: Failure | None) -> None:
        self._recorder.finish(due_s, failure)
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._free.append(connection)

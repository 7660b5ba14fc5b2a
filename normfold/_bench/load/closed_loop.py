"""A closed loop: each connection sends its next request when the one before is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from time import perf_counter

from normfold._bench.connections.connection import CONNECTION, Connection, Failure
from normfold._bench.load.recorder import Recorder

PAUSE_S = 0.1
"""Before a request that follows one without a connection: the service may be starting again."""


class ClosedLoop:
    """The requests of all connections; see `Loop`.

    Args:
        connections: to send on.
        messages: the requests' bytes, without an end.
        recorder: counts them, and says when they end.
    """

    def __init__(self, connections: Sequence[Connection], messages: Iterator[bytes], recorder: Recorder) -> None:
        self.connections = connections
        self._senders = [_Sender(connection, messages, recorder) for connection in connections]

    @property
    def is_done(self) -> bool:
        """Whether the window is over, and every request has its end."""
        return all(sender.is_done for sender in self._senders)

    def start(self) -> None:
        """Send the first request on each connection."""
        for sender in self._senders:
            sender.send()

    def give_up_late(self, timeout_s: float) -> None:
        """Do nothing: no request waits for a connection."""

    def close(self) -> None:
        """Send no more."""
        for sender in self._senders:
            sender.is_done = True


class _Sender:
    """The requests of one connection, one after the other."""

    def __init__(self, connection: Connection, messages: Iterator[bytes], recorder: Recorder) -> None:
        self._connection, self._messages, self._recorder = connection, messages, recorder
        self._due_s = 0.0
        self.is_done = False

    def send(self) -> None:
        """Send the next request, unless the window is over."""
        self._due_s = perf_counter()
        if self._due_s >= self._recorder.end_s or self.is_done:
            self.is_done = True
            return
        self._recorder.begin(self._due_s)
        self._connection.send(next(self._messages), self._finish)

    def _finish(self, failure: Failure | None) -> None:
        self._recorder.finish(self._due_s, failure)
        if failure is not None and failure.status == CONNECTION:
            asyncio.get_running_loop().call_later(PAUSE_S, self.send)
        else:
            self.send()

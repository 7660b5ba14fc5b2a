"""What the loops need of a connection, whatever its protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import NamedTuple, Protocol


class Failure(NamedTuple):
    """A request that was not answered as it should be.

    Attributes:
        status: of HTTP or gRPC, "timeout", or "connection" where there was no connection, or it ended.
        is_refusal: the service had too much to do, and said so.
        sentence: the service's, or the reason; empty without one.
    """

    status: str
    is_refusal: bool
    sentence: str


CONNECTION, TIMEOUT = "connection", "timeout"
"""Statuses of requests that no answer came to."""

Done = Callable[[Failure | None], None]
"""Called with the end of a request, once; None is a right answer."""


class Connection(Protocol):
    """A connection that sends one request at a time, and connects again where it was closed."""

    started_s: float | None
    """When the request that is not yet answered was sent (perf_counter); None without one."""

    async def open(self) -> None:
        """Connect before the first request, so that it does not wait for that.

        Raises:
            OSError: there is no connection.
        """

    def send(self, message: bytes, done: Done) -> None:
        """Send a request, and call `done` at its end."""

    def give_up(self) -> None:
        """End the request that is not yet answered as one that took too long."""

    async def close(self) -> None:
        """Close the connection; a request that is not yet answered ends without a call."""


def give_up_late(connections: Sequence[Connection], timeout_s: float) -> None:
    """End the requests that are older than `timeout_s`."""
    limit = perf_counter() - timeout_s
    for connection in tuple(connections):
        if connection.started_s is not None and connection.started_s < limit:
            connection.give_up()

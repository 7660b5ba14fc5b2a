"""Timeouts of connections: receive, write and keep-alive, checked by one reaper for all connections."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import Protocol

logger = logging.getLogger(__name__)

REAP_INTERVAL_S = 1.0
"""Seconds between two checks of all connections."""

KEEP_ALIVE_TIMEOUT_S = 5.0
"""Seconds that a connection without a request stays open."""

CLOSE_GRACE_S = 0.1
"""Seconds at shutdown in which a connection without a request may still bring one that is on its way."""


class Timeout(Enum):
    """A timeout that a connection has passed."""

    RECEIVE = "a request has not arrived completely within receive_timeout_s"
    WRITE = "the client has read nothing of its response for receive_timeout_s"
    KEEP_ALIVE = "no request has begun for KEEP_ALIVE_TIMEOUT_S"


class ConnectionTimeouts:
    """When a connection last made progress; all times on the event loop's clock, in seconds.

    Args:
        receive_timeout_s: the setting.
        now: when the connection was opened; the first request must arrive within the receive timeout.

    Attributes:
        receiving_since: when the request that is being received began; None between requests.
        idle_since: when the last response was complete; None before the first.
    """

    __slots__ = ("_unread_bytes", "_unread_since", "idle_since", "receive_timeout_s", "receiving_since")

    def __init__(self, receive_timeout_s: float, now: float) -> None:
        self.receive_timeout_s = receive_timeout_s
        self.receiving_since: float | None = now
        self.idle_since: float | None = None
        self._unread_bytes, self._unread_since = 0, 0.0

    def note_read(self) -> None:
        """Note that the client has read: more may be written now than was unread before."""
        self._unread_bytes = 0

    def is_unread(self, now: float, unread_bytes: int) -> bool:
        """Return whether the client has read nothing of `unread_bytes` for `receive_timeout_s`."""
        if not unread_bytes or not self._unread_bytes or unread_bytes < self._unread_bytes:
            self._unread_since = now
        self._unread_bytes = unread_bytes
        return now - self._unread_since > self.receive_timeout_s

    def find_passed(self, now: float, unread_bytes: int, is_reading_paused: bool) -> Timeout | None:
        """Return the timeout that the connection has passed, if any.

        Args:
            now: the present time.
            unread_bytes: bytes of responses in the transport's buffer, which the client has not read.
            is_reading_paused: whether a complete request is being served, so that the next one is not read.
        """
        if self.is_unread(now, unread_bytes):
            return Timeout.WRITE
        if is_reading_paused:
            if self.receiving_since is not None:
                self.receiving_since = now
        elif self.receiving_since is not None:
            if now - self.receiving_since > self.receive_timeout_s:
                return Timeout.RECEIVE
        elif self.idle_since is not None and now - self.idle_since > KEEP_ALIVE_TIMEOUT_S + REAP_INTERVAL_S:
            return Timeout.KEEP_ALIVE
        return None


class Reapable(Protocol):
    """A connection with timeouts."""

    loop: asyncio.AbstractEventLoop

    def check_timeouts(self, now: float) -> None:
        """Close the connection if it has passed a timeout."""


class ConnectionReaper:
    """Checks the timeouts of all connections every REAP_INTERVAL_S, as long as there are any."""

    def __init__(self) -> None:
        self._connections: set[Reapable] = set()
        self._is_scheduled = False

    def add(self, connection: Reapable) -> None:
        """Check a connection from now on."""
        self._connections.add(connection)
        if not self._is_scheduled:
            self._is_scheduled = True
            connection.loop.call_later(REAP_INTERVAL_S, self._reap, connection.loop)

    def discard(self, connection: Reapable) -> None:
        """Check a connection no longer."""
        self._connections.discard(connection)

    def _reap(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self._connections):
            try:
                connection.check_timeouts(now)
            except Exception:  # the others still have timeouts
                self._connections.discard(connection)
                logger.exception("The timeouts of a connection cannot be checked.")
        self._is_scheduled = bool(self._connections)
        if self._is_scheduled:
            loop.call_later(REAP_INTERVAL_S, self._reap, loop)

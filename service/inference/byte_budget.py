"""The memory that large request bodies, and large responses, may take together.

The number of connections alone bounds them by more than a machine has: a client that reads slowly, or not at all, holds
its response in memory until it is disconnected. Small bodies and responses are not counted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from normfold.service.batching.thread_pool import INLINE_BYTES
from normfold.service.codec.headers import Headers, declared_length
from normfold.service.errors import BodyBudgetError

Reserve = Callable[[int], None]
"""Reserves the bytes that a body has now; raises BodyBudgetError if they do not fit."""

BODY_RESERVATION_KEY = "normfold.body_reservation"
"""Key of a request's `BodyReservation` in the ASGI scope."""

_MIN_TRIM_BYTES = 64 * 2**20
"""Peak of reserved bytes from which on their memory is returned to the system once all are released."""


class ByteBudget:
    """A number of bytes that several requests share; may be used from any thread.

    Args:
        max_bytes: limit on all reservations together; one reservation alone may exceed it.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._reserved = self._peak = 0
        self._lock = threading.Lock()

    def reserve(self, nbytes: int, held: int = 0) -> bool:
        """Reserve bytes if they fit beside the other reservations.

        Args:
            nbytes: size of the reservation.
            held: bytes that the caller has reserved before, which this reservation replaces.

        Returns:
            Whether they fit; if not, nothing changes.
        """
        with self._lock:
            others = self._reserved - held
            if nbytes > held and others and others + nbytes > self.max_bytes:
                return False
            self._reserved = others + nbytes
            self._peak = max(self._peak, self._reserved)
            return True

    def release(self, nbytes: int) -> bool:
        """Release a reservation; return whether none is left after a peak of _MIN_TRIM_BYTES or more."""
        with self._lock:
            self._reserved -= nbytes
            if self._reserved or self._peak < _MIN_TRIM_BYTES:
                return False
            self._peak = 0
            return True


class BodyReservation:
    """The bytes of one request's body in a budget, from its headers to its response.

    A plain body of known length is reserved whole before it is read. Of one that is chunked or compressed nobody knows
    the length: what has arrived, and what was decompressed, is reserved as it comes. Up to INLINE_BYTES nothing is.

    Args:
        budget: of all bodies.
    """

    __slots__ = ("_budget", "_held")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget, self._held = budget, 0

    def resize(self, nbytes: int) -> None:
        """Reserve the bytes that the body has now, in place of those that it had before.

        Raises:
            BodyBudgetError: they do not fit beside other bodies.
        """
        counted = nbytes if nbytes > INLINE_BYTES else 0
        if counted != self._held:
            if not self._budget.reserve(counted, self._held):
                raise BodyBudgetError
            self._held = counted

    def grow(self, nbytes: int) -> None:
        """Reserve the bytes that have arrived, unless more are reserved already.

        Raises:
            BodyBudgetError: they do not fit beside other bodies.
        """
        if nbytes > self._held:
            self.resize(nbytes)

    def release(self) -> None:
        """Release all bytes."""
        if self._held:
            self._budget.release(self._held)
            self._held = 0


def declared_bytes(headers: Headers, max_body_bytes: int) -> int:
    """Return the bytes that a request says it sends, up to the limit on a body; 0 for a chunked one."""
    return 0 if b"transfer-encoding" in headers else min(declared_length(headers) or 0, max_body_bytes)

"""The memory that large request bodies, and large responses, may take together.

The number of connections alone bounds them by more than a machine has: a client that reads slowly, or not at all, holds
its response in memory until it is disconnected. Small bodies and responses are not counted.
"""

from __future__ import annotations

from normfold.service.batching.thread_pool import INLINE_BYTES
from normfold.service.codec.headers import Headers, declared_length

_MIN_TRIM_BYTES = 64 * 2**20
"""Peak of reserved bytes from which on their memory is returned to the system once all are released."""


class ByteBudget:
    """A number of bytes that several requests share. Not thread-safe: the event loop alone uses it.

    Args:
        max_bytes: limit on all reservations together; one reservation alone may exceed it.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._reserved = self._peak = 0

    def reserve(self, nbytes: int, held: int = 0) -> bool:
        """Reserve bytes if they fit beside the other reservations.

        Args:
            nbytes: size of the reservation.
            held: bytes that the caller has reserved before, which this reservation replaces.

        Returns:
            Whether they fit; if not, nothing changes.
        """
        others = self._reserved - held
        if others and others + nbytes > self.max_bytes:
            return False
        self._reserved = others + nbytes
        self._peak = max(self._peak, self._reserved)
        return True

    def release(self, nbytes: int) -> bool:
        """Release a reservation; return whether none is left after a peak of _MIN_TRIM_BYTES or more."""
        self._reserved -= nbytes
        if self._reserved or self._peak < _MIN_TRIM_BYTES:
            return False
        self._peak = 0
        return True


def body_reservation(headers: Headers, max_body_bytes: int) -> int:
    """Return the bytes to reserve for the body of a request, 0 for a small one.

    A body of unknown size (chunked or compressed) counts as `max_body_bytes`.
    """
    declared = declared_length(headers)
    if b"transfer-encoding" in headers or b"content-encoding" in headers or declared is None:
        return max_body_bytes if max_body_bytes > INLINE_BYTES else 0
    nbytes = min(declared, max_body_bytes)
    return nbytes if nbytes > INLINE_BYTES else 0

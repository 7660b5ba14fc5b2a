"""The memory that large answers take: each from its run until the client has read it.

A client that reads slowly, or never, holds its answer in memory until it is cut. So there is a limit to all of them
together; one that is over it is given up and answered 503. Small answers are not counted: there are never more of them
than connections.
"""

from __future__ import annotations

from normfold.service.errors import ResponseBudgetError, ResponseTooLargeError

_WORTH_TRIMMING = 64 * 2**20
"""Bytes of answers at once, from which on their memory is given back to the system when all of them are read."""


class Room:
    """Counts the bytes of large answers; the event loop alone touches it.

    Args:
        max_response_bytes: of all answers together.
    """

    def __init__(self, max_response_bytes: int) -> None:
        self._limit, self._taken, self._most = max_response_bytes, 0, 0

    def take(self, size: int, held: int = 0) -> None:
        """Take room for an answer.

        Args:
            size: its bytes.
            held: how many of them have been taken before.

        Raises:
            ResponseTooLargeError: there is never so much room.
            ResponseBudgetError: there is not so much now.
        """
        if size > self._limit:
            raise ResponseTooLargeError(size, self._limit)
        if self._taken + size - held > self._limit:
            raise ResponseBudgetError
        self._taken += size - held
        self._most = max(self._most, self._taken)

    def give_back(self, size: int) -> bool:
        """Give back what was taken; return whether that was the last of so much that the system should have it."""
        self._taken -= size
        if self._taken or self._most < _WORTH_TRIMMING:
            return False
        self._most = 0
        return True

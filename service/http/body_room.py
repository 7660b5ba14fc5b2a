"""The memory that large bodies take: each from its head until its request is answered.

Their number and size alone bound them by more than a machine has. Small bodies are not counted: there are never more of
them than connections.
"""

from __future__ import annotations

from normfold.service.batching.thread_pool import INLINE_BYTES
from normfold.service.errors import BodyBudgetError
from normfold.service.http.body import Headers


class BodyRoom:
    """Counts the bytes of large bodies; the event loop alone touches it.

    Args:
        most: bytes of all bodies together.
        largest: bytes of one: so much is counted for a body whose length nobody knows.
    """

    def __init__(self, most: int, largest: int) -> None:
        self._most, self._largest, self._taken = most, largest, 0

    def take(self, headers: Headers) -> int:
        """Take room for the body of a request; return what was taken, to be given back.

        Raises:
            BodyBudgetError: there is not so much now; a body that is alone always has it.
        """
        size = self._size_of(headers)
        if size <= INLINE_BYTES:
            return 0
        if self._taken and self._taken + size > self._most:
            raise BodyBudgetError
        self._taken += size
        return size

    def give_back(self, size: int) -> None:
        """Give back what was taken."""
        self._taken -= size

    def _size_of(self, headers: Headers) -> int:
        declared = headers.get(b"content-length", b"0")
        if b"transfer-encoding" in headers or b"content-encoding" in headers or not declared.isdigit():
            return self._largest
        return min(int(declared[:20]), self._largest)

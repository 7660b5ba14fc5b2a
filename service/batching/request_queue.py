"""The requests of one model that wait, and how a batch is formed of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain

from normfold.service.batching.batch import Batch, Member, QueuedRequest, can_share_batch


class RequestQueue:
    """Requests in the order of their arrival, urgent ones first. The event loop alone touches it.

    Attributes:
        rows: that wait. Requests that were cancelled stay in the queue until `form_batch` meets them, and do not count.
    """

    __slots__ = ("_normal", "_urgent", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self._urgent: deque[QueuedRequest] = deque()
        self._normal: deque[QueuedRequest] = deque()

    def __iter__(self) -> Iterator[QueuedRequest]:
        """Yield the requests in the order in which they will run."""
        return chain(self._urgent, self._normal)

    def append(self, request: QueuedRequest) -> None:
        """Add a request."""
        (self._urgent if request.urgent else self._normal).append(request)
        self.rows += request.rows

    def discard(self, request: QueuedRequest) -> None:
        """Stop counting the rows of a request that still wait."""
        self.rows -= request.rows - request.batched_rows
        request.batched_rows = request.rows

    def clear(self) -> None:
        """Remove all requests."""
        self._urgent.clear()
        self._normal.clear()
        self.rows = 0

    def form_batch(self, max_rows: int, now: float, expire: Callable[[QueuedRequest], None]) -> Batch | None:
        """Take requests from the front whose rows may run together, until the batch is full.

        A request with more rows than fit is split: its other rows stay at the front. Requests of other shapes keep
        their places.

        Args:
            max_rows: of the batch. A request whose rows are not independent runs alone and whole.
            now: by perf_counter.
            expire: called with each request whose deadline has passed; it must discard it.

        Returns:
            The batch; None if nothing is to run.
        """
        free, rows = max_rows, 0
        members: list[Member] = []
        first: QueuedRequest | None = None
        for queue in (self._urgent, self._normal):
            passed_over: list[QueuedRequest] = []
            while queue and free > 0:
                request = queue.popleft()
                if request.is_done:
                    self.discard(request)
                elif request.deadline <= now:
                    expire(request)
                elif first is None or can_share_batch(first, request):
                    first = first or request
                    start = request.batched_rows
                    stop = min(start + free, request.rows)
                    request.batched_rows, request.batched_at = stop, request.batched_at or now
                    members.append((request, start, stop))
                    rows, free, self.rows = rows + stop - start, free - stop + start, self.rows - stop + start
                    if stop < request.rows:
                        queue.appendleft(request)
                    if request.runs_alone:
                        free = 0
                else:
                    passed_over.append(request)
            queue.extendleft(reversed(passed_over))
        return Batch(members, rows) if members else None

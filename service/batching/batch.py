"""Requests in a model's queue, the batches that are formed of them, and the policy that both follow."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from normfold.service.batching.known_inputs import KnownInputs
from normfold.service.runtime.run_options import Cancel
from normfold.service.runtime.session import Array

Results = dict[str, Array]
"""Arrays by output."""


class Future(Protocol):
    """Takes the outcome of a queued request: asyncio's future, or a `CallbackFuture`."""

    def done(self) -> bool:
        """Return whether it has an outcome."""

    def set_result(self, result: Results, /) -> None:
        """Set the results."""

    def set_exception(self, exception: Exception, /) -> None:
        """Set the error."""


class CallbackFuture:
    """A future that calls one function at once; asyncio's calls its callbacks in the next turn of the event loop.

    Args:
        callback: called once, with the results or the exception; it must not raise.
    """

    __slots__ = ("_callback", "_done")

    def __init__(self, callback: Callable[[Results | Exception], None]) -> None:
        self._callback, self._done = callback, False

    def done(self) -> bool:
        """Return whether the callback was called."""
        return self._done

    def set_result(self, result: Results, /) -> None:
        """Call the callback with results."""
        self._done = True
        self._callback(result)

    def set_exception(self, exception: Exception, /) -> None:
        """Call the callback with an exception."""
        self._done = True
        self._callback(exception)


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """The tensors of one request in a model's queue.

    All times are on the clock of perf_counter, in seconds; 0 before they are known.

    Attributes:
        tensors: by input; each with `rows` rows, unless the request runs alone.
        rows: that it takes in the queue and in batches; 1 if it runs alone.
        outputs: names of those to compute.
        deadline: for queue and run together.
        urgent: runs before every request that is not urgent.
        shapes: of a row of each input, where sizes are free; a batch holds rows of equal shapes only.
        runs_alone: in no batch with other requests, and never split: its rows are not independent, or it has none.
        queued_at: when it was put into the queue.
        batched_at: when its first rows were put into a batch.
        run_started_at: when the run of its first batch began.
        run_ended_at: when the run of its last batch ended.
        batch_rows: rows of its last batch, those of other requests included.
        batched_rows: its rows that were put into batches so far.
        parts: results of its batches, where it was split into several.
    """

    tensors: Mapping[str, Array]
    rows: int
    outputs: Sequence[str]
    deadline: float
    urgent: bool = False
    shapes: tuple[tuple[int, ...], ...] = ()
    runs_alone: bool = False
    future: Future | None = None
    queued_at: float = 0.0
    batched_at: float = 0.0
    run_started_at: float = 0.0
    run_ended_at: float = 0.0
    batch_rows: int = 0
    batched_rows: int = 0
    parts: list[Results] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether it has an outcome, or was cancelled."""
        return self.future is None or self.future.done()

    def followed_by(self, later: QueuedRequest) -> QueuedRequest:
        """Return the times and rows of two queued requests of one HTTP request, as if they had been one."""
        return QueuedRequest(
            {},
            self.rows + later.rows,
            self.outputs,
            self.deadline,
            queued_at=self.queued_at,
            batched_at=self.batched_at,
            run_started_at=self.run_started_at,
            run_ended_at=later.run_ended_at,
            batch_rows=later.batch_rows,
        )


Member = tuple[QueuedRequest, int, int]
"""A request in a batch, and its rows there: first index, and the index after the last."""


@dataclass(slots=True, eq=False)
class Batch:
    """Rows of one or several requests that run together.

    Attributes:
        members: the requests.
        rows: of all members.
    """

    members: list[Member]
    rows: int
    cancel: Cancel = field(default_factory=Cancel)
    run_started_at: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether every member has an outcome or was cancelled."""
        return all(request.is_done for request, _, _ in self.members)


@dataclass(frozen=True)
class BatchPolicy:
    """Limits of a model's queue and of its batches.

    Attributes:
        max_batch_size: rows of one run.
        queue_capacity: rows that may wait.
        inline: run on the event loop instead of in a thread.
        delay_s: seconds that a batch waits to fill; useful on accelerators only.
        sizes: batch sizes that were warmed up, ascending; a batch is padded to the next one. Empty: no padding.
        known_inputs: tensors on which the network has run.
    """

    max_batch_size: int = 32
    queue_capacity: int = 1024
    inline: bool = False
    delay_s: float = 0.0
    sizes: tuple[int, ...] = ()
    known_inputs: KnownInputs = field(default_factory=KnownInputs, compare=False, repr=False)

    def padding(self, rows: int) -> int:
        """Return how many rows of zeros bring a batch to the next of `sizes`."""
        at = bisect_left(self.sizes, rows)
        return self.sizes[at] - rows if at < len(self.sizes) else 0


def can_share_batch(one: QueuedRequest, other: QueuedRequest) -> bool:
    """Return whether two requests may run in one batch: their rows are independent and of one shape."""
    return not (one.runs_alone or other.runs_alone) and one.shapes == other.shapes


def concatenate(parts: Sequence[Results]) -> Results:
    """Return the results of consecutive rows as one, by output."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

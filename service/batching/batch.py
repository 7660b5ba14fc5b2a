"""What waits in the queue of a model, and what runs together."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from normfold.service.runtime.session import Array, Cancel

Results = dict[str, Array]


class Future(Protocol):
    """Where a job's outcome goes: asyncio's future, or a `CallbackFuture`."""

    def done(self) -> bool:
        """Whether it went there."""

    def set_result(self, result: Results, /) -> None:
        """Give the results."""

    def set_exception(self, exception: Exception, /) -> None:
        """Give the reason why there are none."""


class CallbackFuture:
    """A future that calls one function, at once; asyncio's would take a turn of the event loop.

    Args:
        then: called once, with the results or the exception; it must not raise.
    """

    __slots__ = ("_done", "_then")

    def __init__(self, then: Callable[[Results | Exception], None]) -> None:
        self._then, self._done = then, False

    def done(self) -> bool:
        """Whether it was called."""
        return self._done

    def set_result(self, result: Results, /) -> None:
        """Call it with results."""
        self._done = True
        self._then(result)

    def set_exception(self, exception: Exception, /) -> None:
        """Call it with an exception."""
        self._done = True
        self._then(exception)


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """One request's tensors in the queue.

    Attributes:
        tensors: by input; of a batchable model each with `rows` rows.
        rows: None for a model whose rows are not independent, which runs alone.
        outputs: those to compute.
        deadline: on the clock of perf_counter, in seconds; holds for queue and run together.
        urgent: before all that are not.
        shapes: of a row of each input, where they are free; only equal ones run together.
        queued_at, started_at, run_at, ended_at: on the same clock: when it was queued, first taken into a batch, when
            that batch's run began, when all was done.
        batch_rows: of the last batch that it was run in, its own rows included.
    """

    tensors: Mapping[str, Array]
    rows: int | None
    outputs: Sequence[str]
    deadline: float
    urgent: bool = False
    shapes: tuple[tuple[int, ...], ...] = ()
    future: Future | None = None
    queued_at: float = 0.0
    started_at: float = 0.0
    run_at: float = 0.0
    ended_at: float = 0.0
    batch_rows: int = 0
    taken: int = 0
    parts: list[Results] = field(default_factory=list)

    @property
    def weight(self) -> int:
        """What it counts in the queue: its rows, at least one."""
        return self.rows or 1

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.future is None or self.future.done()

    def followed_by(self, other: QueuedRequest) -> QueuedRequest:
        """Return what the two jobs of one request were together, as if one had been cut: begun by the first, ended by
        the second.
        """
        return QueuedRequest(
            {},
            self.weight + other.weight,
            self.outputs,
            self.deadline,
            queued_at=self.queued_at,
            started_at=self.started_at,
            run_at=self.run_at,
            ended_at=other.ended_at,
            batch_rows=other.batch_rows,
        )


@dataclass(slots=True, eq=False)
class Batch:
    """What runs at once: a slice of each job."""

    members: list[tuple[QueuedRequest, int, int]]
    cancel: Cancel = field(default_factory=Cancel)
    run_at: float = 0.0

    @property
    def rows(self) -> int:
        """Rows of all members."""
        return sum(stop - start for _, start, stop in self.members)


@dataclass(frozen=True)
class BatchPolicy:
    """How much runs at once and how much may wait.

    Attributes:
        max_batch_size: rows of one run.
        queue_capacity: rows that may wait.
        inline: run on the event loop.
        delay_s: wait so long for a batch to fill; worth it on accelerators alone.
        sizes: numbers of rows that were warmed, ascending; a batch is padded to the next of them. Empty: never.
    """

    max_batch_size: int = 32
    queue_capacity: int = 1024
    inline: bool = False
    delay_s: float = 0.0
    sizes: tuple[int, ...] = ()

    def padding(self, rows: int) -> int:
        """Return how many rows of zeros make a batch one of the sizes that were warmed."""
        at = bisect_left(self.sizes, rows)
        return self.sizes[at] - rows if at < len(self.sizes) else 0


def fit_together(one: QueuedRequest, other: QueuedRequest) -> bool:
    """Whether two jobs may run at once: their rows are independent, and of one shape."""
    return one.rows is not None and other.rows is not None and one.shapes == other.shapes


def joined(parts: Sequence[Results]) -> Results:
    """Return results of one after the other as one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

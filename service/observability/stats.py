"""Sums of requests and runs, by version of a model: cheap to add to, read when metrics are requested.

The phases of a request, each with a histogram of its seconds:

    decode   from the body's last byte to tensors
    queue    from there until its first rows are put into a batch: the wait for other runs and for the batch delay
    wait     from there until the run begins: the hand-over of the batch to a free thread; near 0 on the event loop
    run      the network
    encode   from its outputs to the response's bytes
    total    from the request's headers to the response

They are the same for infer, `:predict` and `:classify`. Where a request takes several runs, because it is split or its
rows cannot run together, queue and wait are those before the first run, and run lasts until the end of the last one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, product
from typing import Any

import numpy as np

from normfold.contract.tables.preprocessing import FOUND

SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds of the histograms of seconds."""

ROWS = tuple(2**power for power in range(11))
"""Upper bounds of the histogram of batch sizes."""

PHASES = ("decode", "queue", "wait", "run", "encode", "total")

BLOCK = 256
"""Requests whose phases are added to the histograms together, which takes half the time of one by one."""


class Histogram:
    """Counts by upper bound, and the sum of the values."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self.counts)

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add the counts and the sum of another histogram with the same bounds."""
        self.counts = [one + other for one, other in zip(self.counts, counts, strict=True)]
        self.sum += total


def buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return the upper bounds of a histogram and how many values are within each, as Prometheus takes them."""
    bounds = [f"{bound:g}" for bound in histogram.bounds] + ["+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))


class PhaseHistograms:
    """The histograms of the phases of requests, in the order of PHASES; iterating over them adds what was observed."""

    __slots__ = ("_histograms", "_observed")

    def __init__(self) -> None:
        self._histograms = [Histogram() for _ in PHASES]
        self._observed: list[tuple[float, ...]] = []

    def observe(self, seconds: tuple[float, ...]) -> None:
        """Count the phases of one request."""
        self._observed.append(seconds)
        if len(self._observed) >= BLOCK:
            self._add_observed()

    def __iter__(self) -> Iterator[Histogram]:
        """Yield the histograms."""
        if self._observed:
            self._add_observed()
        return iter(self._histograms)

    def _add_observed(self) -> None:
        columns, self._observed = np.array(self._observed).T, []
        for histogram, seconds in zip(self._histograms, columns, strict=True):
            buckets = np.searchsorted(histogram.bounds, seconds)
            counts = np.bincount(buckets, minlength=len(histogram.counts))
            histogram.add(counts.tolist(), float(seconds.sum()))


@dataclass
class ModelStats:
    """The sums of one version of a model.

    Attributes:
        phases: seconds of the requests answered 200.
        batch_rows: rows of each run.
        statuses: requests by HTTP status.
        failed_seconds: of requests with another status.
        queue_rejections: requests that found the queue full.
        rows: that were run.
        last_at: seconds since 1970 of the last request answered 200; 0 before the first.
        batch_sizes: batch size to its number of runs and their seconds.
        table_values: values of tables' rows by column and one of `contract.tables.preprocessing.FOUND`.
    """

    phases: PhaseHistograms = field(default_factory=PhaseHistograms)
    batch_rows: Histogram = field(default_factory=lambda: Histogram(ROWS))
    statuses: Counter[int] = field(default_factory=Counter)
    failed_seconds: float = 0.0
    queue_rejections: int = 0
    rows: int = 0
    last_at: float = 0.0
    batch_sizes: dict[int, list[float]] = field(default_factory=dict)
    table_values: Counter[tuple[str, str]] = field(default_factory=Counter)

    def observe_run(self, rows: int, seconds: float) -> None:
        """Count one run of the network."""
        self.rows += rows
        self.batch_rows.observe(rows)
        sums = self.batch_sizes.setdefault(rows, [0, 0.0])
        sums[0] += 1
        sums[1] += seconds

    def observe_queue_rejection(self) -> None:
        """Count one request that found the queue full."""
        self.queue_rejections += 1

    def begin_columns(self, columns: Sequence[str]) -> None:
        """Let the counters of a table's columns begin with 0: increase() does not see one that begins with 1."""
        self.table_values.update(dict.fromkeys(product(columns, FOUND), 0))

    def observe_columns(self, found: Mapping[tuple[str, str], int]) -> None:
        """Count the values of one request that were missing or unknown, by column."""
        self.table_values.update(found)

    def record(self) -> dict[str, Any]:
        """Return everything as JSON's types, for another process to `add`."""
        return {
            "phases": [[histogram.counts, histogram.sum] for histogram in self.phases],
            "batch_rows": [self.batch_rows.counts, self.batch_rows.sum],
            "statuses": [*self.statuses.items()],
            "failed_seconds": self.failed_seconds,
            "queue_rejections": self.queue_rejections,
            "rows": self.rows,
            "last_at": self.last_at,
            "table_values": [[*key, count] for key, count in self.table_values.items()],
            "batch_sizes": [[size, *sums] for size, sums in self.batch_sizes.items()],
        }

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the `record` of another process, of the same version."""
        for histogram, (counts, total) in zip(self.phases, record["phases"], strict=True):
            histogram.add(counts, total)
        self.batch_rows.add(*record["batch_rows"])
        self.statuses.update(dict(record["statuses"]))
        self.failed_seconds += record["failed_seconds"]
        self.queue_rejections += record["queue_rejections"]
        self.rows += record["rows"]
        self.last_at = max(self.last_at, record["last_at"])
        self.table_values.update({(column, found): count for column, found, count in record["table_values"]})
        for size, runs, seconds in record["batch_sizes"]:
            sums = self.batch_sizes.setdefault(size, [0, 0.0])
            sums[0] += runs
            sums[1] += seconds

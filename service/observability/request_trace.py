"""What is counted and measured of every request: cheap sums on the hot path, made into metrics when somebody asks.

A request goes through phases, each with a histogram of its seconds:

    decode   from the body's last byte to tensors
    queue    from there until a run has room for it
    wait     from there until the run begins, in a thread
    run      the network
    encode   from its outputs to the answer's bytes
    total    from the request's headers to the answer

They are the same for infer, `:predict` and `:classify`. Where a request takes several runs, because it is cut or its
rows cannot run together, queue and wait are those before the first, and run lasts until the end of the last one.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from time import perf_counter, time
from typing import Any, Protocol

from normfold.service.auth.keys import Key
from normfold.service.batching.batch import QueuedRequest
from normfold.service.codec.headers import Headers

SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds of the histograms of time."""

ROWS = tuple(2**power for power in range(11))
"""Upper bounds of the histogram of rows in a run."""

PHASES = ("decode", "queue", "wait", "run", "encode", "total")

_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


CLIENT_DISCONNECTED = 499
"""The status, in what is counted, of a request whose client left: none was sent."""

REQUEST_TRACE_KEY = "normfold.phases"
"""Key in the ASGI scope of a request's `RequestTrace`."""


PROBE_PATHS = frozenset({"/v2/health/live", "/v2/health/ready", "/metrics"})
"""Paths that probes and scrapers ask all the time: what they get as they should is neither counted nor logged."""


class Histogram:
    """Counts by upper bound, and their sum."""

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
        """Add what another histogram with the same bounds has counted."""
        self.counts = [one + other for one, other in zip(self.counts, counts, strict=True)]
        self.sum += total


@dataclass
class ModelStats:
    """The sums of one version of a model; `phases` in the order of PHASES."""

    phases: list[Histogram] = field(default_factory=lambda: [Histogram() for _ in PHASES])
    run_rows: Histogram = field(default_factory=lambda: Histogram(ROWS))
    statuses: Counter[int] = field(default_factory=Counter)
    failed_seconds: float = 0.0
    refusals: int = 0
    rows: int = 0
    last_at: float = 0.0
    batch_sizes: dict[int, list[float]] = field(default_factory=dict)

    def observe_run(self, rows: int, seconds: float) -> None:
        """Count one run of the network."""
        self.rows += rows
        self.run_rows.observe(rows)
        sums = self.batch_sizes.setdefault(rows, [0, 0.0])
        sums[0] += 1
        sums[1] += seconds

    def observe_refusal(self) -> None:
        """Count one request for which the queue had no room."""
        self.refusals += 1

    def record(self) -> dict[str, Any]:
        """Return everything as JSON's types, for another process to `add`."""
        return {
            "phases": [[histogram.counts, histogram.sum] for histogram in self.phases],
            "run_rows": [self.run_rows.counts, self.run_rows.sum],
            "statuses": [*self.statuses.items()],
            "failed_seconds": self.failed_seconds,
            "refusals": self.refusals,
            "rows": self.rows,
            "last_at": self.last_at,
            "batch_sizes": [[size, *sums] for size, sums in self.batch_sizes.items()],
        }

    def add(self, record: Mapping[str, Any]) -> None:
        """Add what another process has counted of the same version."""
        for histogram, (counts, total) in zip(self.phases, record["phases"], strict=True):
            histogram.add(counts, total)
        self.run_rows.add(*record["run_rows"])
        self.statuses.update(dict(record["statuses"]))
        self.failed_seconds += record["failed_seconds"]
        self.refusals += record["refusals"]
        self.rows += record["rows"]
        self.last_at = max(self.last_at, record["last_at"])
        for size, runs, seconds in record["batch_sizes"]:
            sums = self.batch_sizes.setdefault(size, [0, 0.0])
            sums[0] += runs
            sums[1] += seconds


@dataclass(slots=True)
class RequestTrace:
    """One request on its way; times on the clock of perf_counter, 0 where it did not come so far.

    `identity` is the id that an infer request carries in its body, `key` the key that it came with, `trace_id` that of
    the trace that it belongs to.
    """

    request_id: str
    model: str = ""
    version: int = 0
    identity: str | None = None
    method: str = "POST"
    path: str = ""
    started: float = field(default_factory=perf_counter)
    received: float = 0.0
    decoded: float = 0.0
    encoded: float = 0.0
    ended: float = 0.0
    status: int = 0
    job: QueuedRequest | None = None
    key: Key | None = None
    trace_id: str | None = None


class AccessLog(Protocol):
    """Where a line for every request goes."""

    def write(self, phases: RequestTrace) -> None:
        """Write the line."""


class Telemetry:
    """Everything that is counted.

    Attributes:
        models: the sums of every version; those of requests that ran none under ("", 0).
        in_flight: requests that are being answered.
        load_failures: by model, loads that failed, which outlast the version; under "" those of the whole repository.
    """

    def __init__(self, access_log: AccessLog) -> None:
        self.models: dict[tuple[str, int], ModelStats] = {}
        self.in_flight = 0
        self.load_failures: Counter[str] = Counter()
        self._access_log = access_log
        self._ids = count(1)
        self._id_prefix = os.urandom(6).hex()

    def request_id(self, headers: Headers) -> str:
        """Return the request's own X-Request-Id if it is sane, or a new one."""
        given = headers.get(b"x-request-id")
        if given is not None and _SANE_ID.fullmatch(given):
            return given.decode()
        return f"{self._id_prefix}-{next(self._ids):x}"

    def stats(self, model: str, version: int) -> ModelStats:
        """Return the sums of a version, made if need be."""
        found = self.models.get((model, version))
        if found is None:
            found = self.models[model, version] = ModelStats()
        return found

    def begin(self, model: str, version: int) -> ModelStats:
        """Return new sums for a version that is being loaded."""
        self.models[model, version] = begun = ModelStats()
        return begun

    def forget(self, model: str, version: int, stats: ModelStats) -> None:
        """Drop the sums of a version that is gone, unless it was loaded again meanwhile."""
        if self.models.get((model, version)) is stats:
            del self.models[model, version]

    def record(self, phases: RequestTrace) -> None:
        """Count a request that was answered, and write its line."""
        if phases.path in PROBE_PATHS and phases.status in (200, 503):
            return
        phases.ended = perf_counter()
        stats = self.stats(phases.model if phases.version else "", phases.version)
        stats.statuses[phases.status] += 1
        total = phases.ended - phases.started
        job = phases.job
        if phases.status == 200 and job is not None:
            times = (
                phases.decoded - phases.received,
                job.started_at - job.queued_at,
                job.run_at - job.started_at,
                job.ended_at - job.run_at,
                phases.encoded - job.ended_at,
                total,
            )
            for histogram, seconds in zip(stats.phases, times, strict=True):
                histogram.counts[bisect_left(SECONDS, seconds)] += 1
                histogram.sum += seconds
            stats.last_at = time()
        else:
            stats.failed_seconds += total
        self._access_log.write(phases)

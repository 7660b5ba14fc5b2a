"""The results of `normfold.bench`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from normfold._shared.paths import AnyPath

BUSY_SHARE = 0.85
"""Share of a core from which the load generator may be what limits the load."""

LATE_MS, LATE_SHARE = 0.5, 0.2
"""Delay of one request in a hundred, absolute and of p99, from which the load generator adds to the latency."""


def describe_load(connections: int, target_rate: float | None) -> str:
    """Return a load in words: by its rate where it has one, otherwise by its connections."""
    if target_rate is not None:
        return f"{target_rate:g} requests a second"
    return f"{connections} connection{'s' * (connections != 1)}"


@dataclass(frozen=True)
class LoadResult:
    """What a service did under one level of load.

    Counts and latencies are of the requests that were due in the measured seconds, whenever they were answered; the
    rate is that of the right answers in these seconds. Latencies are of right answers, in milliseconds: in a closed
    loop from sending, in an open loop from when the request was due, and so with its wait for a free connection.

    Attributes:
        connections: of a closed loop; of an open loop the most that were in use at a time.
        target_rate: requests a second that were due in an open loop; None in a closed one.
        seconds: measured, after the warm-up.
        requests: that were due.
        answered: with status 200 (OK in gRPC).
        refusals: how many the service refused because it had too much to do, by status: 429 and 503, RESOURCE_EXHAUSTED
            and UNAVAILABLE.
        errors: how many failed otherwise, by status; "connection" where there was no connection or it ended, "timeout"
            where no answer came in time.
        sentences: the first sentence of the service, or of this side, for each status in `refusals` and `errors`.
        unfinished: requests without an end, because the measurement was interrupted.
        rate: right answers a second.
        rows_rate: rows a second.
        p50_ms, p90_ms, p99_ms, max_ms: latency; None without a right answer.
        processor_share: of one core, that the load generator used.
        send_delay_p99_ms: 99 of 100 requests were sent at most so long after they were due, where a connection was
            free: the load generator's own part of the latency in an open loop; None in a closed one.
    """

    connections: int
    target_rate: float | None
    seconds: float
    requests: int
    answered: int
    refusals: Mapping[str, int]
    errors: Mapping[str, int]
    sentences: Mapping[str, str]
    unfinished: int
    rate: float
    rows_rate: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    processor_share: float
    send_delay_p99_ms: float | None

    @property
    def load(self) -> str:
        """The load in words."""
        return describe_load(self.connections, self.target_rate)

    @property
    def is_busy(self) -> bool:
        """Whether the load generator used so much of its core that it may be what limited the load."""
        return self.processor_share >= BUSY_SHARE

    @property
    def is_late(self) -> bool:
        """Whether the load generator's own delay is a part of an open loop's latency that matters."""
        delay_ms, p99_ms = self.send_delay_p99_ms, self.p99_ms
        return delay_ms is not None and p99_ms is not None and delay_ms >= max(LATE_MS, LATE_SHARE * p99_ms)

    @property
    def refused(self) -> int:
        """Number of refused requests."""
        return sum(self.refusals.values())

    @property
    def failed(self) -> int:
        """Number of requests with an error."""
        return sum(self.errors.values())


@dataclass(frozen=True, repr=False)
class BenchResult:
    """The result of `bench`: what a service did under each level of load.

    Attributes:
        url: of the service.
        model: its name.
        version: that was asked for; None for the service's choice.
        protocol: http or grpc.
        format: of tensors: binary or json.
        rows: of a request: the size of the first axis that all inputs share.
        request_bytes: of the first request, with its head in HTTP.
        warm_up_s: before each measurement.
        arrivals: of an open loop: poisson or constant.
        levels: closed loops first, each in the order given.
        interrupted: it was ended before its time; the last level has fewer seconds.
    """

    url: str
    model: str
    version: int | None
    protocol: str
    format: str
    rows: int
    request_bytes: int
    warm_up_s: float
    arrivals: str
    levels: tuple[LoadResult, ...]
    interrupted: bool

    @property
    def error_share(self) -> float:
        """The highest share of requests with an error, of all levels; refusals are none."""
        return max((level.failed / level.requests for level in self.levels if level.requests), default=0.0)

    def write_picture(self, path: AnyPath) -> None:
        """Draw latency over load, as .png or .svg.

        Raises:
            MissingPackageError: matplotlib is not installed.
            ArgumentError: the path ends with something else.
            WriteError: the file cannot be written.
        """
        from normfold._bench.picture import check_picture, write_picture

        write_picture(self, check_picture(path))

    def __repr__(self) -> str:
        best = max((level.rate for level in self.levels), default=0.0)
        return f"BenchResult({self.model!r} at {self.url!r}: at most {best:,.0f} requests a second)"

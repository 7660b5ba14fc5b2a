"""One level of load: warm up, measure, wait for what is not yet answered."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter
from typing import Protocol

import numpy as np

from normfold._bench.connections.connection import Connection, give_up_late
from normfold._bench.load.closed_loop import ClosedLoop
from normfold._bench.load.open_loop import OpenLoop, due_times
from normfold._bench.load.recorder import Recorder
from normfold._bench.load.usage import ProcessorUsage
from normfold._bench.result import describe_load

TICK_S = 0.02
"""Between two looks at whether requests are late, and the level is over."""


@dataclass(frozen=True)
class Level:
    """One level of load.

    Attributes:
        connections: of a closed loop; of an open loop how many at most.
        rate: requests a second of an open loop; None for a closed one.
        is_poisson: gaps of an open loop are exponentially distributed.
        warm_up_s: seconds before the measurement.
        duration_s: seconds that are measured.
        timeout_s: seconds after which a request is given up.
        seed: of the gaps.
    """

    connections: int
    rate: float | None
    is_poisson: bool
    warm_up_s: float
    duration_s: float
    timeout_s: float
    seed: int

    def describe(self) -> str:
        """Return the load in words."""
        return describe_load(self.connections, self.rate)


@dataclass(frozen=True)
class Measurement:
    """What was counted of a level.

    Attributes:
        recorder: the counts.
        seconds: measured; 0 if it was interrupted in its warm-up.
        connections: that were used.
        processor_share: of one core, that this process used.
    """

    recorder: Recorder
    seconds: float
    connections: int
    processor_share: float


class Loop(Protocol):
    """A closed or an open loop."""

    @property
    def connections(self) -> Sequence[Connection]:
        """The connections that it has opened."""

    @property
    def is_done(self) -> bool:
        """Whether the window is over, and every request has its end."""

    def start(self) -> None:
        """Begin to send."""

    def give_up_late(self, timeout_s: float) -> None:
        """End the requests that have waited for a connection for longer than `timeout_s`."""

    def close(self) -> None:
        """Send no more."""


async def run_level(
    level: Level,
    make_connection: Callable[[], Connection],
    messages: Sequence[bytes],
    stop: threading.Event,
    progress: Callable[[str], None],
) -> Measurement:
    """Run a level of load.

    Args:
        level: what to run.
        make_connection: returns a new connection.
        messages: the requests' bytes, sent in turns.
        stop: when it is set, the level ends, and what is not answered is left out.
        progress: called once a second, in words.
    """
    requests = cycle(messages)
    connections = [] if level.rate is not None else [make_connection() for _ in range(level.connections)]
    # What fails here is tried again by the first request, and counted.
    await asyncio.gather(*(connection.open() for connection in connections), return_exceptions=True)
    with _frozen_objects():
        started_s = perf_counter()
        begin_s = started_s + level.warm_up_s
        recorder = Recorder(begin_s, begin_s + level.duration_s)
        loop: Loop
        if level.rate is None:
            loop = ClosedLoop(connections, requests, recorder)
        else:
            times = due_times(level.rate, level.is_poisson, started_s, np.random.default_rng(level.seed))
            loop = OpenLoop(make_connection, level.connections, requests, times, recorder)
        loop.start()
        share = await _wait(level, loop, recorder, stop, progress)
    loop.close()
    recorder.end_s = min(recorder.end_s, perf_counter())
    await asyncio.gather(*(connection.close() for connection in loop.connections))
    return Measurement(recorder, max(0.0, recorder.end_s - begin_s), len(loop.connections), share)


async def _wait(
    level: Level, loop: Loop, recorder: Recorder, stop: threading.Event, progress: Callable[[str], None]
) -> float:
    """Wait for the end of a level, or for `stop`; return the share of a core that this process used."""
    usage, reported_s = ProcessorUsage(recorder.begin_s, recorder.end_s), perf_counter()
    while not (loop.is_done or stop.is_set()):
        await asyncio.sleep(TICK_S)
        usage.look()
        give_up_late(loop.connections, level.timeout_s)
        loop.give_up_late(level.timeout_s)
        if (now := perf_counter()) >= reported_s + 1:
            progress(_progress_line(level, recorder, now))
            reported_s = now
    return usage.share


def _progress_line(level: Level, recorder: Recorder, now: float) -> str:
    if now < recorder.begin_s:
        return f"{level.describe()}: warming up"
    if now >= recorder.end_s:
        return f"{level.describe()}: waiting for {recorder.unfinished:,} answers"
    measured_s = now - recorder.begin_s
    failed = recorder.refusals.total() + recorder.errors.total()
    failures = f", {failed:,} refused or failed" if failed else ""
    rate = recorder.answered / measured_s
    return f"{level.describe()}: {measured_s:.0f} of {level.duration_s:g} s, {rate:,.0f} answers a second{failures}"


@contextmanager
def _frozen_objects() -> Iterator[None]:
    """Take all objects out of garbage collection, which would stop the generator for milliseconds."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

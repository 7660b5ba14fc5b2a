"""Processor time of a run of one network over another's, on one thread: rounds in turns, of which the median counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

MIN_ROUNDS, MAX_ROUNDS = 7, 31
SECONDS = 1.5
"""Time after which no further round begins, beyond MIN_ROUNDS."""
MIN_RUN_S = 0.002
"""A network that is faster runs several times in a round, since a clock's own cost would count."""


def measure_time_ratio(before: Callable[[], object], after: Callable[[], object]) -> float:
    """Return the time of `after` over that of `before`.

    The two take turns, and each round begins with the other one, so that a change of the processor's clock or of what
    else the machine does meets both.

    Args:
        before: one run of the float32 network.
        after: one run of the other.
    """
    before(), after()
    repeats = max(1, round(MIN_RUN_S / max(_seconds(before, 1), 1e-6)))
    end = time.perf_counter() + SECONDS
    ratios: list[float] = []
    while len(ratios) < MIN_ROUNDS or (len(ratios) < MAX_ROUNDS and time.perf_counter() < end):
        if len(ratios) % 2:
            second = _seconds(after, repeats)
            first = _seconds(before, repeats)
        else:
            first = _seconds(before, repeats)
            second = _seconds(after, repeats)
        ratios.append(second / max(first, 1e-9))
    return statistics.median(ratios)


def _seconds(run: Callable[[], object], repeats: int) -> float:
    """Return the processor time of so many runs."""
    start = time.process_time()
    for _ in range(repeats):
        run()
    return time.process_time() - start

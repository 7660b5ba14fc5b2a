"""Times of two ways to run a network, taken in turns, and the rule by which one is faster."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from time import perf_counter

Run = Callable[[], object]

_ROUNDS = 7
_MAX_SECONDS = 1.0
"""For the rounds of one shape; at least one round is run."""

_MAX_RATIO = 0.97
"""A change pays if a run takes at most this share of the time: less is within the noise of such short measurements."""


def time_in_turns(one: Run, other: Run, clock: Callable[[], float] = perf_counter) -> tuple[float, float]:
    """Return the seconds of the fastest run of each; their first runs do not count."""
    one()
    other()
    fastest = [math.inf, math.inf]
    started = clock()
    for _ in range(_ROUNDS):
        for index, run in enumerate((one, other)):
            began = clock()
            run()
            fastest[index] = min(fastest[index], clock() - began)
        if clock() - started > _MAX_SECONDS:
            break
    return fastest[0], fastest[1]


def is_faster(before: Mapping[int, float], after: Mapping[int, float]) -> bool:
    """Return whether the geometric mean of the ratios of times, over the numbers of rows, is small enough.

    Args:
        before: seconds of a run by rows.
        after: the same with the change.
    """
    ratios = [math.log(after[rows] / before[rows]) for rows in before]
    return math.exp(sum(ratios) / len(ratios)) <= _MAX_RATIO

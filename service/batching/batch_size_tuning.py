"""The batch size of a network and where it runs: measured while the model loads.

A row costs its part of a run and what a run costs besides: waking a thread and returning, over code and data that the
network has driven from the processor's caches. The batch size is doubled for as long as a row costs at
most _MAX_COST_RATIO of what it did, and a run stays short. A network whose largest batch takes less time than a thread
costs runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

DEFAULT_MAX_BATCH_SIZE = 64
"""Rows; where neither the settings nor the responses' limit say otherwise."""

MAX_RUN_S = 0.1
"""A batch that takes longer delays its first rows by more than the batch gains."""

MAX_INLINE_RUN_S = 0.001
"""Up to here a run blocks the event loop for less than waking a thread and returning takes under load."""

RUN_OVERHEAD_S = 0.0008
"""Measured with ResNet-18 of 16 ms a row: besides its run, a row alone takes 1.1 ms of processor time, in pairs 0.7;
so 0.8 belong to the run, and 0.3 to the row."""

_MAX_COST_RATIO = 0.99
"""A larger batch pays if a row of it costs at most this share of what it costs in a smaller one."""
_REPEATS = 3
_SHAPE_SWITCH_PENALTY = 2.0
_BUDGET_S = 0.3
"""For the runs that are timed. The first run of each size does not count: on a GPU it chooses algorithms, which on an
H100 left no time to find out that a batch of 8 gives four times as many rows a second."""


def time_batch_sizes(run: Callable[[int], object], max_batch_size: int) -> dict[int, float]:
    """Time runs of 1, 2, 4 … rows, until more rows stop paying.

    Args:
        run: runs the network on a number of rows.
        max_batch_size: rows that it may run on.

    Returns:
        Batch size to the seconds of its fastest run, at least for one row.
    """
    spent, seconds, rows = 0.0, {}, 1
    while rows <= max_batch_size:
        run(rows)  # the first run of a size allocates
        times = [_time(run, rows) for _ in range(_REPEATS)]
        spent += sum(times)
        seconds[rows] = min(times)
        no_gain = rows > 1 and seconds_per_row(seconds, rows) > _MAX_COST_RATIO * seconds_per_row(seconds, rows // 2)
        if no_gain and seconds[rows] > MAX_INLINE_RUN_S:
            break
        if seconds[rows] > MAX_RUN_S / 2 or spent > _BUDGET_S:
            break
        rows *= 2
    return seconds


def has_shape_switch_penalty(run: Callable[[int], object], sizes: Sequence[int]) -> bool:
    """Return whether a run takes much longer if the last one had another batch size.

    ONNX Runtime keeps cuDNN's plan of a convolution for the last shape only: on an H100, with 1, 8 and 32 rows by
    turns, ResNet-18 took 38 to 50 ms a run, and 3.5 with a session for each (`make bench-gpu`).

    Args:
        run: runs the network on a number of rows.
        sizes: two batch sizes or more.
    """
    one, other = sizes[:2]
    run(one)
    same = min(_time(run, one) for _ in range(_REPEATS))
    switched = min(_time_after(run, other, one) for _ in range(_REPEATS))
    return switched > _SHAPE_SWITCH_PENALTY * same


def choose_batch_size(seconds: Mapping[int, float]) -> int:
    """Return the smallest batch size whose rows cost at most 1 / _MAX_COST_RATIO of the cheapest row.

    Args:
        seconds: batch size to the seconds of a run.
    """
    cheapest = min(seconds_per_row(seconds, rows) for rows in seconds)
    return min(rows for rows in seconds if seconds_per_row(seconds, rows) * _MAX_COST_RATIO <= cheapest)


def seconds_per_row(seconds: Mapping[int, float], rows: int) -> float:
    """Return the seconds that a row costs in batches of `rows`."""
    return (seconds[rows] + RUN_OVERHEAD_S) / rows


def _time_after(run: Callable[[int], object], other: int, rows: int) -> float:
    """Return the seconds of a run of `rows` after a run of another batch size."""
    run(other)
    return _time(run, rows)


def _time(run: Callable[[int], object], rows: int) -> float:
    started = perf_counter()
    run(rows)
    return perf_counter() - started

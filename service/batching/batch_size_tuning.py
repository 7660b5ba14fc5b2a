"""How many rows a network should run at once, and where: measured while the model loads.

What a row costs is its part of a run, and of what a run costs besides: handing it to a thread and back, over code and
data that the network has driven from the processor's caches. Batches are doubled for as long as a row becomes cheaper
by _GAIN and a run stays short; a network whose largest batch takes less than a thread costs runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

LARGEST_BATCH = 64
"""Rows; where nobody says otherwise."""

LONGEST_RUN_S = 0.1
"""A batch that takes longer makes its first rows wait for what the last ones gain."""

INLINE_S = 0.001
"""Up to here a run stalls the event loop for less than the hand-over to a thread and back takes under load."""

BESIDE_A_RUN_S = 0.0008
"""Measured with ResNet-18 of 16 ms a row: besides its run, a row alone takes 1.1 ms of processor time, in pairs 0.7;
so 0.8 belong to the run, and 0.3 to the row."""

_GAIN = 0.99
_REPEATS = 3
_SHAPE_SWITCH_PENALTY = 2.0
_BUDGET_S = 0.3
"""For the runs that are timed. The first ones of their sizes do not count: on a GPU they choose algorithms, which on an
H100 left no time to find out that a batch of 8 answers four times as many rows a second."""


def measure_batches(run: Callable[[int], object], largest: int) -> dict[int, float]:
    """Time runs of 1, 2, 4 … rows, for as long as more rows pay.

    Args:
        run: runs the network on a number of rows.
        largest: rows that it may run on.

    Returns:
        Rows to the seconds of the fastest of several runs, at least for one row.
    """
    spent, measured, rows = 0.0, {}, 1
    while rows <= largest:
        run(rows)  # the first run of a size allocates
        times = [_time(run, rows) for _ in range(_REPEATS)]
        spent += sum(times)
        measured[rows] = min(times)
        no_gain = rows > 1 and cost(measured, rows) > _GAIN * cost(measured, rows // 2)
        if no_gain and measured[rows] > INLINE_S:
            break
        if measured[rows] > LONGEST_RUN_S / 2 or spent > _BUDGET_S:
            break
        rows *= 2
    return measured


def has_shape_switch_penalty(run: Callable[[int], object], sizes: Sequence[int]) -> bool:
    """Whether a run takes much longer if the last one had another number of rows.

    ONNX Runtime keeps cuDNN's plan of a convolution for the last shape alone: on an H100, with 1, 8 and 32 rows by
    turns, ResNet-18 took 38 to 50 ms a run, and 3.5 with a session for each (`make bench-gpu`).

    Args:
        run: runs the network on a number of rows.
        sizes: two of them or more.
    """
    one, other = sizes[:2]
    run(one)
    alike = min(_time(run, one) for _ in range(_REPEATS))
    changed = min(_time_behind(run, other, one) for _ in range(_REPEATS))
    return changed > _SHAPE_SWITCH_PENALTY * alike


def best_batch(measured: dict[int, float]) -> int:
    """Return the smallest number of rows at which a row is as cheap as anywhere, but for a little."""
    cheapest = min(cost(measured, rows) for rows in measured)
    return min(rows for rows in measured if cost(measured, rows) * _GAIN <= cheapest)


def cost(measured: Mapping[int, float], rows: int) -> float:
    """Return the seconds that a row costs in batches of so many."""
    return (measured[rows] + BESIDE_A_RUN_S) / rows


def _time_behind(run: Callable[[int], object], other: int, rows: int) -> float:
    run(other)
    return _time(run, rows)


def _time(run: Callable[[int], object], rows: int) -> float:
    started = perf_counter()
    run(rows)
    return perf_counter() - started

"""How many rows a network should run at once, and where: measured while the model loads.

Batches are doubled while a run takes less than a thread costs; from there on for as long as a row becomes cheaper by a
tenth and a run stays short. A network whose largest batch takes less than a thread costs runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

LARGEST_BATCH = 64
"""Rows; where nobody says otherwise."""

LONGEST_RUN_S = 0.05
"""A batch that takes longer makes its first rows wait for what the last ones gain."""

INLINE_S = 0.001
"""Up to here a run stalls the event loop for less than the hand-over to a thread and back takes under load."""

_GAIN = 0.9
_REPEATS = 3
_BUDGET_S = 0.3


def measure_batches(run: Callable[[int], object], largest: int) -> dict[int, float]:
    """Time runs of 1, 2, 4 … rows, for as long as more rows pay.

    Args:
        run: runs the network on a number of rows.
        largest: rows that it may run on.

    Returns:
        Rows to the seconds of the fastest of several runs, at least for one row.
    """
    started, measured, rows = perf_counter(), {}, 1
    while rows <= largest:
        run(rows)  # the first run of a size allocates
        measured[rows] = min(_time(run, rows) for _ in range(_REPEATS))
        no_gain = rows > 1 and measured[rows] / rows > _GAIN * measured[rows // 2] / (rows // 2)
        if no_gain and measured[rows] > INLINE_S:
            break
        if measured[rows] > LONGEST_RUN_S / 2 or perf_counter() - started > _BUDGET_S:
            break
        rows *= 2
    return measured


def best_batch(measured: dict[int, float]) -> int:
    """Return the smallest number of rows at which a row is as cheap as anywhere, but for a tenth."""
    cheapest = min(seconds / rows for rows, seconds in measured.items())
    return min(rows for rows, seconds in measured.items() if seconds / rows * _GAIN <= cheapest)


def _time(run: Callable[[int], object], rows: int) -> float:
    started = perf_counter()
    run(rows)
    return perf_counter() - started

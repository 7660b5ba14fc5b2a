"""The layout of the drawing: a graph in topological order, broken into lines like text.

A line is best broken where nothing is torn: no fold's arc, and few values that are still to be read. Where a single
value lives, one block of the network ends and the next begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

MAX_LINE_NODES = 40
_MIN_BLOCK_NODES = 3
_TORN_ARC = 4.0
_TORN_VALUE = 0.5
_MAX_VALUES = 6
_LINE = 1.0
_RAGGED = 3.0


def crossings(spans: Iterable[tuple[int, int]], count: int) -> list[int]:
    """Return for each gap, that behind node 0 first, how many of the spans (from, to) lie across it."""
    steps = [0] * (count + 1)
    for start, end in spans:
        low, high = max(min(start, end), 0), min(max(start, end), count)
        steps[low] += 1
        steps[high] -= 1
    return list(accumulate(steps))[: max(count - 1, 0)]


def living(reads: Sequence[Sequence[int]]) -> list[int]:
    """Return for each gap how many values are read behind it that were made before it."""
    last: dict[int, int] = {}
    for place, sources in enumerate(reads):
        for source in sources:
            last[source] = place
    return crossings(last.items(), len(reads))


def find_blocks(alive: Sequence[int]) -> list[range]:
    """Return the stretches of nodes between gaps that one value alone crosses, chains of single nodes left out.

    Args:
        alive: from `living`.
    """
    count = len(alive) + 1
    cuts = [0, *(gap + 1 for gap, values in enumerate(alive) if values <= 1), count]
    blocks = [range(start, end) for start, end in pairwise(cuts) if end - start >= _MIN_BLOCK_NODES]
    return [block for block in blocks if len(block) <= max(MAX_LINE_NODES, count // 2)]


def break_lines(torn: Sequence[int], alive: Sequence[int], longest: int = MAX_LINE_NODES) -> list[range]:
    """Return the lines that tear least, and are of similar length.

    Args:
        torn: for each gap, the arcs across it.
        alive: for each gap, the values across it.
        longest: most nodes in a line.
    """
    count = len(torn) + 1
    best = [0.0] + [float("inf")] * count
    start_of = [0] * (count + 1)
    for end in range(1, count + 1):
        last = end == count
        tear = 0.0 if last else _TORN_ARC * torn[end - 1] + _TORN_VALUE * min(max(alive[end - 1] - 1, 0), _MAX_VALUES)
        for start in range(max(0, end - longest), end):
            slack = (longest - (end - start)) / longest
            cost = best[start] + _LINE + tear + (0.0 if last else _RAGGED * slack**2)
            if cost < best[end]:
                best[end], start_of[end] = cost, start
    lines = []
    end = count
    while end:
        lines.append(range(start_of[end], end))
        end = start_of[end]
    return lines[::-1]

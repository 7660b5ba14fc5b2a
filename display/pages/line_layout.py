"""The layout of the drawing: a graph in topological order, broken into lines like text.

A line is best broken where no fold's arc crosses, and few values are live, that is, still to be read. Where a single
value is live, one block of the network ends and the next begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

MAX_LINE_NODES = 40
_MIN_BLOCK_NODES = 3
_ARC_PENALTY = 4.0
_VALUE_PENALTY = 0.5
_MAX_VALUES = 6
_LINE_PENALTY = 1.0
_LENGTH_PENALTY = 3.0


def crossings(spans: Iterable[tuple[int, int]], count: int) -> list[int]:
    """Return for each gap, the one after node 0 first, how many of the spans (from, to) lie across it."""
    steps = [0] * (count + 1)
    for start, end in spans:
        low, high = max(min(start, end), 0), min(max(start, end), count)
        steps[low] += 1
        steps[high] -= 1
    return list(accumulate(steps))[: max(count - 1, 0)]


def live_values(reads: Sequence[Sequence[int]]) -> list[int]:
    """Return for each gap the number of values made before it and read after it."""
    last: dict[int, int] = {}
    for place, sources in enumerate(reads):
        for source in sources:
            last[source] = place
    return crossings(last.items(), len(reads))


def find_blocks(live: Sequence[int]) -> list[range]:
    """Return the stretches of nodes between gaps that one value alone crosses, chains of single nodes left out.

    Args:
        live: from `live_values`.
    """
    count = len(live) + 1
    cuts = [0, *(gap + 1 for gap, values in enumerate(live) if values <= 1), count]
    blocks = [range(start, end) for start, end in pairwise(cuts) if end - start >= _MIN_BLOCK_NODES]
    return [block for block in blocks if len(block) <= max(MAX_LINE_NODES, count // 2)]


def break_lines(crossing_arcs: Sequence[int], live: Sequence[int], longest: int = MAX_LINE_NODES) -> list[range]:
    """Return the lines of the least penalty: few arcs and values cross their ends, and they are of similar length.

    Args:
        crossing_arcs: for each gap, the arcs across it.
        live: for each gap, the values across it.
        longest: most nodes in a line.
    """
    count = len(crossing_arcs) + 1
    best = [0.0] + [float("inf")] * count
    start_of = [0] * (count + 1)
    for end in range(1, count + 1):
        last = end == count
        values = 0 if last else min(max(live[end - 1] - 1, 0), _MAX_VALUES)
        break_penalty = 0.0 if last else _ARC_PENALTY * crossing_arcs[end - 1] + _VALUE_PENALTY * values
        for start in range(max(0, end - longest), end):
            slack = (longest - (end - start)) / longest
            cost = best[start] + _LINE_PENALTY + break_penalty + (0.0 if last else _LENGTH_PENALTY * slack**2)
            if cost < best[end]:
                best[end], start_of[end] = cost, start
    lines = []
    end = count
    while end:
        lines.append(range(start_of[end], end))
        end = start_of[end]
    return lines[::-1]

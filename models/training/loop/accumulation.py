"""Gradient accumulation: the gradients of several batches make one step of the optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from normfold.models.data.splits import IndexArray


@dataclass(frozen=True)
class MicroBatch:
    """A batch as the network gets it, and its place in a step of the optimizer."""

    rows: IndexArray
    step: int
    """Step of the epoch that its gradient is part of, from 0."""
    share: float
    """Rows of this batch divided by those of the step: weight of its mean gradient in that of the step."""
    is_first: bool
    is_last: bool


def micro_batches(batches: Sequence[IndexArray], accumulate: int) -> Iterator[MicroBatch]:
    """Yield batches with the steps that they belong to: `accumulate` to a step, fewer to the last step of an epoch.

    Args:
        batches: rows of each batch of an epoch.
        accumulate: batches in a step.
    """
    for start in range(0, len(batches), accumulate):
        group = batches[start : start + accumulate]
        total = sum(map(len, group))
        for index, rows in enumerate(group):
            yield MicroBatch(rows, start // accumulate, len(rows) / total, index == 0, index == len(group) - 1)


def count_steps(batches: int, accumulate: int) -> int:
    """Return the number of steps of an epoch with this number of batches."""
    return -(-batches // accumulate)

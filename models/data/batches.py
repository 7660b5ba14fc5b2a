"""The order of rows: a function of (seed, epoch), so that a resumed run has no state to restore."""

from __future__ import annotations

import random

import numpy as np
import torch

from normfold.models.data.splits import IndexArray
from normfold.models.errors import DataError


def epoch_batches(
    rows: int, batch_size: int, *, seed: int, epoch: int, process: int = 0, processes: int = 1
) -> list[IndexArray]:
    """Shuffle all rows and cut them into batches; return this process's part of each.

    A last batch that would leave a process a single row is merged into the batch before it: BatchNorm cannot take a
    variance from one row, and dropping it would throw data away. Every process gets equally many rows of a batch, so
    that the mean of their gradients is the batch's; at most `processes - 1` rows sit out an epoch for that.

    Args:
        rows: in the training split.
        batch_size: over all processes.
        seed: of the run.
        epoch: from 1.
        process: which part, from 0.
        processes: number of parts.

    Returns:
        Positions in the training split, one array a step, each of at least two.

    Raises:
        DataError: fewer than two rows for each process, in the split or in a batch.
    """
    fewest = 2 * processes
    if rows < fewest or batch_size < fewest:
        raise DataError(
            f"BatchNorm needs at least two rows in each process's batch; {rows} training rows in batches of "
            f"{batch_size} over {processes} processes leave fewer."
        )
    order = np.random.default_rng((seed, epoch)).permutation(rows)
    starts = list(range(0, rows, batch_size))
    if rows - starts[-1] < fewest:
        starts.pop()
    batches = [order[start:end] for start, end in zip(starts, [*starts[1:], rows], strict=True)]
    shares = [len(batch) // processes for batch in batches]
    return [batch[process * share : (process + 1) * share] for batch, share in zip(batches, shares, strict=True)]


def seed_everything(seed: int, epoch: int, process: int) -> None:
    """Set the global random states of Python, NumPy and torch from (seed, epoch, process).

    Done before the weights are drawn (epoch 0) and at the start of every epoch, so that dropout draws the same masks in
    a run that was interrupted, and different ones in each process.
    """
    mixed = int(np.random.SeedSequence((seed, epoch, process)).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)  # a user's own network may draw from the global state
    torch.manual_seed(mixed)

"""Batches of an epoch: a function of (seed, epoch), so that a resumed run needs no state of them."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import torch

from normfold.models.data.splits import IndexArray
from normfold.models.errors import DataError


def epoch_batches(
    rows: int,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    process: int = 0,
    processes: int = 1,
    weights: npt.NDArray[np.float64] | None = None,
) -> list[IndexArray]:
    """Shuffle all rows, split them into batches, and return this process's part of each batch.

    A last batch with fewer than two rows per process is merged into the batch before it, since BatchNorm cannot compute
    a variance from one row. Every process gets the same number of rows of a batch, so that the mean of their gradients
    is that of the batch; up to `processes - 1` rows of a batch are left out for that.

    Args:
        rows: number of rows in the training split.
        batch_size: rows per batch, over all processes.
        seed: of the run.
        epoch: from 1.
        process: index of this process, from 0.
        processes: number of processes.
        weights: probability of each row, (rows,), to draw the rows with replacement; None: each row once.

    Returns:
        Indices into the training split, one int64 array per step, each of at least two.

    Raises:
        DataError: the split or a batch has fewer than two rows for each process.
    """
    min_rows = 2 * processes
    if rows < min_rows or batch_size < min_rows:
        raise DataError(
            f"BatchNorm needs at least two rows in each process's batch; {rows} training rows in batches of "
            f"{batch_size} over {processes} processes leave fewer."
        )
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(rows) if weights is None else rng.choice(rows, rows, p=weights)
    starts = list(range(0, rows, batch_size))
    if rows - starts[-1] < min_rows:
        starts.pop()
    batches = [order[start:end] for start, end in zip(starts, [*starts[1:], rows], strict=True)]
    counts = [len(batch) // processes for batch in batches]
    return [batch[process * count : (process + 1) * count] for batch, count in zip(batches, counts, strict=True)]


def seed_everything(seed: int, epoch: int, process: int) -> None:
    """Set the global random states of Python, NumPy and torch from (seed, epoch, process).

    Training calls it before the weights are drawn (epoch 0) and at the start of every epoch, so that dropout has the
    same masks in a resumed run, and different ones in each process.
    """
    combined = int(np.random.SeedSequence((seed, epoch, process)).generate_state(1)[0])
    random.seed(combined)
    np.random.seed(combined)  # a user's own network may draw from the global state
    torch.manual_seed(combined)

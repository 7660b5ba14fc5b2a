"""Weights of classes, labels or targets in the loss, and of rows in the order of an epoch."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from normfold.contract.source_card import IGNORED
from normfold.models.data.data import Dataset
from normfold.models.errors import DataError

Weights = Literal["balanced"] | tuple[float, ...] | None


def class_weights(dataset: Dataset, given: Weights) -> Tensor | None:
    """Return the weights in the loss, (outputs,), float32; None for equal ones.

    balanced, over the training split of n rows:
        classes     n / (classes * rows of the class), as scikit-learn's compute_class_weight; of masks by pixels
        labels      rows without the label / rows with it, for the samples that have it

    Args:
        dataset: counts of its training split.
        given: numbers, or balanced.

    Raises:
        DataError: other than one positive number for each output, or there is nothing to balance.
    """
    if given is None:
        return None
    count = len(dataset.labels)
    if given != "balanced":
        if len(given) != count or not all(0 < weight < np.inf for weight in given):
            raise DataError(f"`class_weights` must be `balanced` or {count} positive numbers, one for each output.")
        return torch.tensor(given, dtype=torch.float32)
    if dataset.task == "regression":
        raise DataError("`class_weights` cannot be balanced for regression; give a number for each target.")
    y = dataset.y[dataset.splits.train]
    if dataset.task == "multi-label":
        having = y.sum(axis=0)
        for name, rows in zip(dataset.labels, having, strict=True):
            if not 0 < rows < len(y):
                held = "every row has" if rows else "no row has"
                raise DataError(f"`class_weights` cannot be balanced: {held} the label {name!r} in the training split.")
        return torch.from_numpy(((len(y) - having) / having).astype(np.float32))
    counts = np.bincount(y[y != IGNORED].ravel(), minlength=count)
    if not counts.all():
        absent = dataset.labels[int(np.flatnonzero(counts == 0)[0])]
        raise DataError(f"`class_weights` cannot be balanced: the training split has nothing of class {absent!r}.")
    return torch.from_numpy((counts.sum() / (count * counts)).astype(np.float32))


def row_weights(dataset: Dataset, sampler: Literal["balanced"] | None) -> npt.NDArray[np.float64] | None:
    """Return the probability of each training row to be drawn, (rows,); None where each comes once in an epoch.

    Raises:
        DataError: a row has no one class.
    """
    if sampler is None:
        return None
    if dataset.task != "classification":
        raise DataError(f"`sampler` balanced draws every class as often; the task is {dataset.task}.")
    y = dataset.y[dataset.splits.train]
    weights = 1 / np.bincount(y, minlength=len(dataset.labels))[y]
    return np.asarray(weights / weights.sum(), np.float64)

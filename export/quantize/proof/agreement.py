"""Classes that two networks give to the same rows: how many agree, and how many are right."""

from __future__ import annotations

import math

import numpy as np

from normfold.contract.manifest import class_axis
from normfold.contract.outputs.task import MultiLabel, Regression
from normfold.contract.precision.record import AccuracyChange, Agreement, ValueChange
from normfold.contract.source_card import IGNORED
from normfold.export.arrays import Tensor

_SUM_TOLERANCE = 1e-3
"""Of the sum of probabilities in float32."""

_Z = 1.959964
"""Quantile of the normal distribution for 95 % confidence, two-sided."""


def wilson_bounds(share: float, count: int) -> tuple[float, float]:
    """Return the lower and the upper bound of a share at 95 % confidence::

        (p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n)

    Source: Wilson 1927, Journal of the American Statistical Association 22, 209-212.

    Args:
        share: p, found in `count` independent trials.
        count: n, at least 1.
    """
    square = _Z**2 / count
    centre = share + square / 2
    spread = math.sqrt(square * share * (1 - share) + square**2 / 4)
    return max(0.0, (centre - spread) / (1 + square)), min(1.0, (centre + spread) / (1 + square))


class ClassCounts:
    """Counts over batches of one output that holds logits, probabilities, or the classes themselves."""

    def __init__(self) -> None:
        self._rows = self._places = self._equal = 0
        self._labelled = self._right_before = self._right_after = 0

    def add(self, before: Tensor, after: Tensor, labels: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            before: what the float32 network gives: floats with classes at `class_axis`, or integers, which are classes.
            after: what the other gives.
            labels: the class of each row, of masks (rows, height, width), where pixels with IGNORED do not count; None
                where they are unknown.
        """
        first, second = (_classes_of(array) for array in (before, after))
        self._rows += len(before)
        self._places += first.size
        self._equal += int((first == second).sum())
        if labels is not None:
            labels = labels.reshape(first.shape)  # an output may keep axes of size 1
            self._labelled += int((labels != IGNORED).sum())
            self._right_before += int((first == labels).sum())
            self._right_after += int((second == labels).sum())

    @property
    def agreement(self) -> Agreement | None:
        """The share that agrees; None before the first batch."""
        if not self._places:
            return None
        share = self._equal / self._places
        lower, upper = wilson_bounds(share, self._rows)
        return Agreement(share=share, lower_bound=lower, upper_bound=upper)

    @property
    def accuracy(self) -> AccuracyChange | None:
        """The change of accuracy; None without labels."""
        if not self._labelled:
            return None
        return AccuracyChange(before=self._right_before / self._labelled, after=self._right_after / self._labelled)


class ValueSums:
    """Sums over batches of an output that holds predicted values, each over the standard deviation of its target."""

    def __init__(self, task: Regression) -> None:
        self._mean = np.array([target.mean for target in task.targets])
        self._std = np.array([target.std for target in task.targets])
        self._before: list[Tensor] = []
        self._after: list[Tensor] = []
        self._true: list[Tensor] = []

    def add(self, before: Tensor, after: Tensor, true: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            before: what the float32 network gives, (rows, targets), in units.
            after: what the other gives.
            true: values of the rows, in units; None where they are unknown.
        """
        self._before.append(self._standardise(before))
        self._after.append(self._standardise(after))
        if true is not None:
            self._true.append(self._standardise(true.reshape(before.shape)))

    @property
    def change(self) -> ValueChange | None:
        """The change of the target that loses most; None before the first batch."""
        if not self._before:
            return None
        before, after = np.concatenate(self._before), np.concatenate(self._after)
        difference = np.sqrt(np.square(after - before).mean(axis=0))  # (targets,)
        if not self._true:
            return ValueChange(difference=float(difference.max()))
        true = np.concatenate(self._true)
        variance = true.var(axis=0)
        changes = [
            ValueChange(difference=float(difference[index]), r2_before=first, r2_after=second)
            for index in np.flatnonzero(variance > 0).tolist()
            for first, second in [[float(1 - e[index] / variance[index]) for e in _errors(true, before, after)]]
        ]
        return max(changes, key=lambda change: change.drop, default=ValueChange(difference=float(difference.max())))

    def _standardise(self, values: Tensor) -> Tensor:
        standardised: Tensor = (values.astype(np.float64) - self._mean) / self._std
        return standardised


def flags(logits: Tensor, task: MultiLabel) -> Tensor:
    """Return 1 where the probability of a label reaches the threshold, and 0 elsewhere: int64, as the logits.

    The sigmoid of a logit is at least t where the logit is at least log(t / (1 - t)).
    """
    return (logits >= math.log(task.threshold / (1 - task.threshold))).astype(np.int64)


def _errors(true: Tensor, *predicted: Tensor) -> list[Tensor]:
    return [np.square(values - true).mean(axis=0) for values in predicted]


def _classes_of(array: Tensor) -> Tensor:
    if array.dtype.kind != "f":
        return array
    classes: Tensor = array.argmax(class_axis(array.shape))
    return classes


def holds_probabilities(array: Tensor) -> bool:
    """Return whether rows, or pixels of masks, are probabilities of classes: from 0 to 1, with the sum 1."""
    if array.dtype.kind != "f" or array.ndim not in (2, 4) or array.shape[1] < 2 or not array.size:
        return False
    return bool(array.min() >= 0 and np.abs(array.sum(axis=1, dtype=np.float64) - 1).max() < _SUM_TOLERANCE)

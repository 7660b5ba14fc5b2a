"""Targets of samples: what a network is trained to return, and the task that their dtype and shape mean.

classification      int64 (N,): a class for each sample
segmentation        int64 (N, height, width): a class for each pixel, IGNORED where it has none
regression          float64 (N, targets): values in their units
multi-label         bool (N, labels): whether a sample has a label
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from normfold.contract.arrays import Array
from normfold.models.data.classes import number_classes
from normfold.models.errors import DataError, TrainingWarning

TaskName = Literal["classification", "segmentation", "regression", "multi-label"]

Targets = npt.NDArray[np.int64] | npt.NDArray[np.float64] | npt.NDArray[np.bool_]

_FLOAT32_MAX = float(np.finfo(np.float32).max)

_FEW = 20
"""Number of different whole numbers up to which floats may be meant as classes."""


@dataclass(frozen=True)
class TargetOptions:
    """How targets are read."""

    task: TaskName | None = None
    """None: by their values; see `guess_task`."""
    ignore_index: int | None = None
    """Value in masks of pixels without a class."""


BY_VALUES = TargetOptions()
"""The task follows from the values."""


def task_of(y: Any) -> TaskName:
    """Return the task of targets, as `read_targets` returns them."""
    if y.dtype.kind == "f":
        return "regression"
    if y.dtype.kind == "b":
        return "multi-label"
    return "classification" if y.ndim == 1 else "segmentation"


def guess_task(y: Array) -> TaskName:
    """Return the task that the labels of a file are most likely for.

    Three axes are masks. One axis of floats, and columns of numbers, are values to predict; columns of 0 and 1 are
    labels that do not exclude each other; everything else is classes.
    """
    if y.ndim == 3:
        return "segmentation"
    if y.ndim == 2:
        return "multi-label" if y.shape[1] > 1 and _is_binary(y) else "regression"
    return "regression" if y.dtype.kind == "f" else "classification"


def read_targets(
    y: Array, labels: tuple[str, ...] | None, path: Path, options: TargetOptions = BY_VALUES
) -> tuple[Targets, tuple[str, ...]]:
    """Return targets in the form of their task, and the names of the classes, values or labels.

    Args:
        y: (N,), (N, K) or (N, height, width), as read.
        labels: names of the classes where `y` holds their numbers, or of the K columns; otherwise None.
        path: of the file, for errors.
        options: task, and pixels without a class.

    Raises:
        DataError: `y` does not fit the task.

    Warns:
        TrainingWarning: whole numbers are taken as values, or one-hot rows as labels that do not exclude each other;
            and see `number_classes`.
    """
    task = options.task or guess_task(y)
    if options.task is None:
        _warn_of_classes(y, task, path)
    if task == "segmentation" and y.ndim != 3:
        raise DataError(f"Masks are of shape (N, H, W); the labels of {str(path)!r} are {list(y.shape)}.")
    if task == "classification":
        y = _whole_numbers(y)
        if y.ndim != 1:
            raise DataError(
                f"For classification, a sample has one class; the labels of {str(path)!r} are {list(y.shape)}."
            )
    if task in ("classification", "segmentation"):
        return number_classes(y, labels, path, options.ignore_index)
    columns = y[:, None] if y.ndim == 1 else y
    if columns.ndim != 2 or columns.dtype.kind not in "iufb":
        raise DataError(
            f"For {task}, the labels of {str(path)!r} must be numbers (N,) or (N, columns); they are {y.dtype} "
            f"{list(y.shape)}."
        )
    names = labels or (("y",) if columns.shape[1] == 1 else tuple(f"y{index}" for index in range(columns.shape[1])))
    if len(names) != columns.shape[1]:
        raise DataError(f"{str(path)!r} has {columns.shape[1]} columns of labels and {len(names)} names for them.")
    return (_values if task == "regression" else _flags)(columns, names, path), names


def label_columns(given: str | tuple[str, ...], header: Sequence[str]) -> tuple[str, ...]:
    """Return the names of label columns, each once.

    Args:
        given: names, or lists of names with commas between.
        header: names of all columns; one of these may hold commas.
    """
    texts = (given,) if isinstance(given, str) else given
    parts = [[text] if text in header else [part.strip() for part in text.split(",")] for text in texts]
    return tuple(dict.fromkeys(name for names in parts for name in names))


def read_text_targets(
    texts: Array, names: tuple[str, ...], path: Path, options: TargetOptions
) -> tuple[Targets, tuple[str, ...]]:
    """Return targets of columns of text; see `read_targets`.

    One column of whole numbers or of other texts is classes, by these texts; all else must be numbers.

    Args:
        texts: (N, K).
        names: of the columns.
        path: of the file, for errors.
        options: task.

    Raises:
        DataError: the columns do not fit the task.
    """
    try:
        numbers = texts.astype(np.float64)
    except ValueError:
        numbers = None
    if len(names) == 1 and options.task != "multi-label":
        is_fraction = numbers is not None and bool((numbers != np.rint(numbers)).any())
        if options.task == "classification" or (options.task is None and not is_fraction):
            return read_targets(texts[:, 0], None, path, options)
    if numbers is None:
        row, column = next((r, c) for r, c in np.ndindex(*texts.shape) if not _is_number(str(texts[r, c])))
        raise DataError(
            f"Sample {row} (counted from 0) of {str(path)!r} has {str(texts[row, column])!r} in the label column "
            f"{names[column]!r}; it must be a number{', since there are several columns' * (len(names) > 1)}."
        )
    return read_targets(numbers, names, path, options)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _values(columns: Array, names: tuple[str, ...], path: Path) -> npt.NDArray[np.float64]:
    wrong = ~(np.abs(columns.astype(np.float64)) <= _FLOAT32_MAX)  # NaN too
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise DataError(
            f"Sample {row} (counted from 0) of {str(path)!r} has {columns[row, column]} as {names[column]!r}, which is "
            "not a finite float32 number."
        )
    return columns.astype(np.float64)


def _flags(columns: Array, names: tuple[str, ...], path: Path) -> npt.NDArray[np.bool_]:
    wrong = (columns != 0) & (columns != 1)
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise DataError(
            f"Sample {row} (counted from 0) of {str(path)!r} has {columns[row, column]} as {names[column]!r}; for "
            "multi-label it must be 0 or 1."
        )
    return columns.astype(np.bool_)


def _is_binary(y: Array) -> bool:
    return y.dtype.kind in "iufb" and bool(((y == 0) | (y == 1)).all())


def _whole_numbers(y: Array) -> Array:
    """Return floats that are whole numbers as integers."""
    if y.dtype.kind != "f" or not np.isfinite(y).all() or (y != np.rint(y)).any() or np.abs(y).max() > 2**53:
        return y
    return y.astype(np.int64)


def _warn_of_classes(y: Array, task: TaskName, path: Path) -> None:
    """Warn where classes are probably meant."""
    if task == "regression" and y.ndim == 1 and np.isfinite(y).all():
        values = np.unique(y)
        if len(values) <= _FEW and (values == np.rint(values)).all():
            warnings.warn(
                f"The labels of {str(path)!r} are floats with {len(values)} different whole numbers, and are taken as "
                "values to predict; for classes, give `task` classification.",
                TrainingWarning,
                stacklevel=4,
            )
    if task == "multi-label" and (y.sum(axis=1) == 1).all():
        warnings.warn(
            f"Every row of the labels of {str(path)!r} holds one 1, as for classes that exclude each other; they are "
            "taken as labels that do not. For classes, give their numbers (N,) instead.",
            TrainingWarning,
            stacklevel=4,
        )


@dataclass(frozen=True)
class TargetScale:
    """Mean and standard deviation of each value to predict, (targets,), float64, over the training split."""

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]

    def standardise(self, y: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Return (y - mean) / std, (N, targets)."""
        return ((y - self.mean) / self.std).astype(np.float32)


def measure_scale(y: Targets, names: tuple[str, ...]) -> TargetScale:
    """Return the scale of values to predict.

    Args:
        y: of the training split, (N, targets), float64.
        names: of the targets.

    Raises:
        DataError: a value is constant.
    """
    mean, std = y.mean(axis=0, dtype=np.float64), y.std(axis=0, dtype=np.float64)
    for index, name in enumerate(names):
        if y[:, index].min() == y[:, index].max() or not std[index] > 0:
            raise DataError(
                f"{name!r} has the value {mean[index]:g} in every row of the training split: nothing varies."
            )
    return TargetScale(mean, std)

"""Numbers of classes for the labels of a data set, and the pixels of masks that have none."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from normfold.contract.arrays import Array
from normfold.contract.source_card import IGNORED
from normfold.models.errors import DataError, TrainingWarning

_FILLS = (255, 65535)
"""Values that tools write into masks for pixels without a class: the largest of uint8 and uint16."""


def number_classes(
    y: Array, labels: tuple[str, ...] | None, path: Path, ignore_index: int | None = None
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Number the classes 0, 1, … in the order of their values; pixels without a class become IGNORED.

    Args:
        y: classes (N,) or masks (N, height, width); integers, booleans or strings.
        labels: names of the classes, where `y` holds their numbers; otherwise None, and its values name them.
        path: of the file, for errors.
        ignore_index: value in masks of pixels without a class; classes (N,) have none.

    Returns:
        The numbers, of the shape of `y`, and the names of the classes.

    Raises:
        DataError: the labels are of another dtype, out of range, or a mask holds only `ignore_index`.

    Warns:
        TrainingWarning: no pixel holds `ignore_index`, or it is not given, and the masks hold a value that usually
            marks pixels without a class.
    """
    has_class = np.ones(y.shape, bool)
    if y.ndim > 1 and ignore_index is not None:
        has_class = _pixels_with_class(y, ignore_index, path)
    known = y[has_class]  # (labels with a class,)
    numbers = np.full(y.shape, IGNORED, np.int64)
    if labels is None:
        if y.dtype.kind not in "iuUb":
            raise DataError(f"Labels of {str(path)!r} are of dtype {y.dtype}; they must be integers or strings.")
        values, numbers[has_class] = np.unique(known, return_inverse=True)
        if y.ndim > 1 and ignore_index is None:
            warn_of_fill(values, path)
        return numbers, tuple(str(value) for value in values.tolist())
    if y.dtype.kind not in "iu" or known.min() < 0 or known.max() >= len(labels):
        can_ignore = y.ndim > 1 and ignore_index is None
        remedy = "; `ignore_index` leaves out the pixels of one other value" if can_ignore else ""
        raise DataError(f"With 'labels', 'y' of {str(path)!r} must hold integers from 0 to {len(labels) - 1}{remedy}.")
    numbers[has_class] = known
    return numbers, labels


def _pixels_with_class(masks: Array, ignore_index: int, path: Path) -> npt.NDArray[np.bool_]:
    """Return where masks do not hold `ignore_index`."""
    ignored = masks == ignore_index if masks.dtype.kind in "iu" else np.zeros(masks.shape, bool)
    if not ignored.any():
        warn_of_unused_index(ignore_index, path)
    empty = np.flatnonzero(ignored.all(axis=(1, 2)))
    if len(empty):
        raise DataError(
            f"Mask {empty[0]} (counted from 0) of {str(path)!r} holds only {ignore_index}, the `ignore_index`; leave "
            "the image out."
        )
    return ~ignored


def warn_of_fill(values: Array, path: Path) -> None:
    """Warn of a value of masks that usually marks pixels without a class; two values are two classes.

    Args:
        values: of all pixels, ascending, each once.
        path: of the file.
    """
    if values.dtype.kind not in "iu" or len(values) < 3:
        return
    first, last = int(values[0]), int(values[-1])
    fill = first if first < 0 else last if last in _FILLS and int(values[-2]) < last - 1 else None
    if fill is not None:
        warnings.warn(
            f"The masks of {str(path)!r} hold the value {fill}, which becomes a class; if it marks pixels without a "
            f"class, leave them out with `ignore_index` {fill}.",
            TrainingWarning,
            stacklevel=4,
        )


def warn_of_unused_index(ignore_index: int, path: Path) -> None:
    """Warn that no pixel of the masks of a file or folder holds `ignore_index`."""
    warnings.warn(
        f"No pixel of the masks of {str(path)!r} holds {ignore_index}, the `ignore_index`: none is left out.",
        TrainingWarning,
        stacklevel=4,
    )

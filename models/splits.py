"""Stratified, seeded splits into training, validation and test rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import DataError

IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Splits:
    """Row numbers of each split, ascending; no row is in two."""

    train: IndexArray
    validation: IndexArray
    test: IndexArray


def split_by_class(
    y: npt.NDArray[np.int64],
    class_names: Sequence[str],
    *,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> Splits:
    """Split so that every class has its share in every split, and at least one row.

    Args:
        y: (N,) class numbers in [0, classes).
        class_names: for the error.
        validation_fraction: of each class, rounded.
        test_fraction: of each class, rounded.
        seed: the same seed and labels give the same splits.

    Raises:
        DataError: fewer than two classes, a class of fewer than three rows, or one too small to leave a training row.
    """
    if len(class_names) < 2:
        raise DataError(f"There is only one class, {class_names[0]!r}; a classifier needs at least two.")
    rng = np.random.default_rng(seed)
    train, validation, test = [], [], []
    for number, name in enumerate(class_names):
        rows = rng.permutation(np.flatnonzero(y == number))
        count_test = max(1, round(len(rows) * test_fraction))
        count_validation = max(1, round(len(rows) * validation_fraction))
        if len(rows) < count_test + count_validation + 1:
            raise DataError(
                f"Class {name!r} has {len(rows)} rows, too few to have one each for training, validation and test "
                f"at fractions of {validation_fraction:g} and {test_fraction:g}."
            )
        test.append(rows[:count_test])
        validation.append(rows[count_test : count_test + count_validation])
        train.append(rows[count_test + count_validation :])
    return Splits(*(np.sort(np.concatenate(part)) for part in (train, validation, test)))

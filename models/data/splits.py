"""Seeded splits into training, validation and test rows, stratified where every row has one class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from normfold.models.errors import DataError

IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Splits:
    """Row indices of each split, in ascending order; the splits are disjoint."""

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
    """Split rows so that every class has the same fractions in every split, and at least one row.

    Args:
        y: class indices in [0, classes), (N,).
        class_names: names of the classes.
        validation_fraction: of each class; the number of rows is rounded.
        test_fraction: of each class; the number of rows is rounded.
        seed: of the shuffle; the same seed and labels give the same splits.

    Raises:
        DataError: fewer than two classes, or a class too small to have a row in each split.
    """
    check_classes(class_names)
    rng = np.random.default_rng(seed)
    train: list[IndexArray] = []
    validation: list[IndexArray] = []
    test: list[IndexArray] = []
    for index, name in enumerate(class_names):
        rows = rng.permutation(np.flatnonzero(y == index))
        parts = cut(rows, f"Class {name!r}", validation_fraction, test_fraction)
        for split, part in zip((train, validation, test), parts, strict=True):
            split.append(part)
    return Splits(*(np.sort(np.concatenate(part)) for part in (train, validation, test)))


def split_rows(
    rows: int, class_names: Sequence[str] | None, *, validation_fraction: float, test_fraction: float, seed: int
) -> Splits:
    """Split rows at random, for targets that are no class of a row: masks, values, several labels.

    Args:
        rows: number of rows.
        class_names: names of the classes of masks; None for other targets.
        validation_fraction: of the rows; their number is rounded.
        test_fraction: of the rows; their number is rounded.
        seed: of the shuffle; the same seed and number of rows give the same splits.

    Raises:
        DataError: fewer than two classes, or too few rows to have one in each split.
    """
    if class_names is not None:
        check_classes(class_names)
    order = np.random.default_rng(seed).permutation(rows)
    return Splits(*map(np.sort, cut(order, "The data set", validation_fraction, test_fraction)))


def check_classes(class_names: Sequence[str]) -> None:
    """Check that there are at least two classes.

    Raises:
        DataError: there is one.
    """
    if len(class_names) < 2:
        raise DataError(f"There is only one class, {class_names[0]!r}; a classifier needs at least two.")


def cut(
    rows: IndexArray, subject: str, validation_fraction: float, test_fraction: float, unit: str = "rows"
) -> tuple[IndexArray, IndexArray, IndexArray]:
    """Divide shuffled rows into those for training, validation and test.

    Args:
        rows: in the order of the shuffle.
        subject: begins the error.
        validation_fraction: of the rows; at least one, unless it is 0, where validation has a file of its own.
        test_fraction: of the rows; likewise.
        unit: what is divided, for the error.

    Raises:
        DataError: there are too few to have one in each split.
    """
    count_test = max(1, round(len(rows) * test_fraction)) if test_fraction else 0
    count_validation = max(1, round(len(rows) * validation_fraction)) if validation_fraction else 0
    if len(rows) < count_test + count_validation + 1:
        raise DataError(
            f"{subject} has {len(rows)} {unit}, too few to have one each for training, validation and test "
            f"at fractions of {validation_fraction:g} and {test_fraction:g}."
        )
    return rows[count_test + count_validation :], rows[count_test : count_test + count_validation], rows[:count_test]

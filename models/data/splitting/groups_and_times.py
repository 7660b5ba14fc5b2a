"""Splits that keep rows of one group together, or test the latest rows.

Rows of one patient, machine or photograph are alike: a test on rows of a group that was trained on says how well the
network knows the group. And who predicts the future is to be tested on rows later than those of training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normfold.contract.arrays import Array
from normfold.models.data.splits import IndexArray, Splits, cut
from normfold.models.errors import DataError


def split_by_group(groups: Array, *, validation_fraction: float, test_fraction: float, seed: int) -> Splits:
    """Split rows at random so that no group is in two splits.

    Args:
        groups: of each row, (N,).
        validation_fraction: of the groups; their number is rounded.
        test_fraction: of the groups; their number is rounded.
        seed: of the shuffle; the same seed and groups give the same splits.

    Raises:
        DataError: there are too few groups to have one in each split.
    """
    different, of_row = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(different))
    parts = cut(order, "The data set", validation_fraction, test_fraction, "groups")
    return Splits(*(np.flatnonzero(np.isin(of_row, part)) for part in parts))


def split_by_time(times: Array, *, validation_fraction: float, test_fraction: float) -> Splits:
    """Split rows by their time: the latest are tested, those before them validated; no time is in two splits.

    Args:
        times: of each row, (N,): numbers, dates or texts that sort as times do.
        validation_fraction: of the rows; their number is rounded, and grows with the rows of the same time.
        test_fraction: of the rows; likewise.

    Raises:
        DataError: there are too few times to have one in each split.
    """
    ascending = np.sort(times)
    first_test = _start(ascending, test_fraction)
    before = ascending[:first_test]
    first_validation = _start(before, validation_fraction * len(ascending) / max(1, len(before)))
    if first_validation == 0:
        raise DataError(
            f"The data set has {len(np.unique(times))} different times, too few to have rows of training before those "
            f"of validation and test at fractions of {validation_fraction:g} and {test_fraction:g}."
        )
    train_end = ascending[first_validation - 1]
    validation_end = ascending[first_test - 1]
    return Splits(
        np.flatnonzero(times <= train_end),
        np.flatnonzero((times > train_end) & (times <= validation_end)),
        np.flatnonzero(times > validation_end),
    )


def check_training_classes(y: Array, class_names: Sequence[str], train: IndexArray) -> None:
    """Check that every class has a training row, which splits by group or time do not see to.

    Args:
        y: class indices, (N,).
        class_names: names of the classes.
        train: rows of the training split.

    Raises:
        DataError: a class has none.
    """
    missing = np.setdiff1d(np.arange(len(class_names)), y[train])
    if len(missing):
        raise DataError(
            f"Class {class_names[missing[0]]!r} has no row in the training split, since rows of one group, or later "
            "than those of training, are not in it; give another `split_seed`, or smaller fractions."
        )


def _start(ascending: Array, fraction: float) -> int:
    """Return the first index of the last rows: about a fraction, at least one if it is not 0, with all of one time."""
    if fraction == 0 or not len(ascending):
        return len(ascending)
    count = min(len(ascending), max(1, round(len(ascending) * fraction)))
    return int(np.searchsorted(ascending, ascending[-count], side="left"))

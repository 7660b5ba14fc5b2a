from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normfold.models.data.splits import Splits, split_by_class, split_rows
from normfold.models.errors import DataError


def split(y: np.ndarray, validation: float = 0.1, test: float = 0.2, seed: int = 0) -> Splits:
    names = [f"class {number}" for number in range(int(y.max()) + 1)]
    return split_by_class(y, names, validation_fraction=validation, test_fraction=test, seed=seed)


@given(st.lists(st.integers(5, 60), min_size=2, max_size=5), st.integers(0, 9))
def test_rows_are_in_one_split_and_classes_in_all(counts: list[int], seed: int) -> None:
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    parts = split(y, seed=seed)
    rows = np.concatenate([parts.train, parts.validation, parts.test])
    assert sorted(rows) == list(range(len(y)))
    for part, fraction in ((parts.validation, 0.1), (parts.test, 0.2)):
        assert list(np.bincount(y[part])) == [max(1, round(count * fraction)) for count in counts]


def test_splits_depend_on_the_seed() -> None:
    y = np.arange(100) % 4
    assert np.array_equal(split(y).test, split(y).test)
    assert not np.array_equal(split(y).test, split(y, seed=1).test)


def test_class_too_small_is_named() -> None:
    with pytest.raises(DataError, match="Class 'class 1' has 2 rows, too few"):
        split(np.array([0] * 10 + [1] * 2))


def test_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="only one class, 'class 0'"):
        split(np.zeros(10, np.int64))


def split_masks(rows: int, classes: int = 2, seed: int = 0) -> Splits:
    names = [str(number) for number in range(classes)]
    return split_rows(rows, names, validation_fraction=0.1, test_fraction=0.2, seed=seed)


@given(st.integers(3, 300), st.integers(0, 9))
def test_images_with_masks_are_in_one_split(rows: int, seed: int) -> None:
    parts = split_masks(rows, seed=seed)
    assert sorted(np.concatenate([parts.train, parts.validation, parts.test])) == list(range(rows))
    assert (len(parts.validation), len(parts.test)) == (max(1, round(rows * 0.1)), max(1, round(rows * 0.2)))
    assert np.array_equal(parts.test, split_masks(rows, seed=seed).test)


def test_too_few_masks_or_classes_are_refused() -> None:
    with pytest.raises(DataError, match="The data set has 2 rows, too few"):
        split_masks(2)
    with pytest.raises(DataError, match="only one class, '0'"):
        split_masks(20, classes=1)

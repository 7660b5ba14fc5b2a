"""Classes of two networks: shares with their bounds, and accuracy where there are labels."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.contract.source_card import IGNORED
from normfold.export.quantize.proof.agreement import ClassCounts, holds_probabilities, wilson_bounds


def test_wilson_bounds_are_those_of_the_literature() -> None:
    lower, upper = wilson_bounds(0.1, 10)  # 1 of 10; statsmodels' proportion_confint: 0.0178762, 0.4041500

    assert (lower, upper) == pytest.approx((0.0178762, 0.4041500), abs=1e-6)
    assert wilson_bounds(1.0, 180) == pytest.approx((0.979106, 1.0), abs=1e-5)


def test_bounds_narrow_with_the_number_of_rows() -> None:
    widths = [upper - lower for lower, upper in (wilson_bounds(0.95, count) for count in (10, 100, 1000))]

    assert widths == sorted(widths, reverse=True)


def logits(classes: list[int], count: int = 3) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[classes]


def test_agreement_and_accuracy_are_counted_over_batches() -> None:
    counts = ClassCounts()
    counts.add(logits([0, 1, 2]), logits([0, 1, 1]), np.array([0, 1, 2]))
    counts.add(logits([2]), logits([2]), np.array([1]))

    assert counts.agreement is not None
    assert counts.agreement.share == 0.75
    assert counts.agreement.lower_bound == wilson_bounds(0.75, 4)[0]
    assert counts.accuracy is not None
    assert (counts.accuracy.before, counts.accuracy.after) == (0.75, 0.5)


def test_accuracy_is_unknown_without_labels() -> None:
    counts = ClassCounts()
    assert counts.agreement is None
    counts.add(logits([0]), logits([0]))

    assert counts.accuracy is None


def test_pixels_of_masks_count_each_and_bounds_count_rows() -> None:
    before = np.zeros((2, 3, 2, 2), np.float32)
    after = before.copy()
    after[0, 1, 0, 0] = 1
    counts = ClassCounts()
    counts.add(before, after, np.zeros((2, 2, 2), np.int64))

    assert counts.agreement is not None
    assert counts.agreement.share == 7 / 8
    assert counts.agreement.upper_bound == wilson_bounds(7 / 8, 2)[1]
    assert counts.accuracy is not None
    assert (counts.accuracy.before, counts.accuracy.after) == (1.0, 7 / 8)


def test_pixels_without_a_class_are_left_out_of_the_accuracy() -> None:
    before = np.zeros((2, 3, 2, 2), np.float32)
    after = before.copy()
    after[0, 1, 0] = 1
    labels = np.zeros((2, 2, 2), np.int64)
    labels[0, 0, 0] = labels[1, 1] = IGNORED
    counts = ClassCounts()
    counts.add(before, after, labels)
    counts.add(before, after, np.full_like(labels, IGNORED))

    assert counts.agreement is not None
    assert counts.agreement.share == 12 / 16
    assert counts.accuracy is not None
    assert (counts.accuracy.before, counts.accuracy.after) == (1.0, 4 / 5)


def test_accuracy_is_unknown_where_no_pixel_has_a_class() -> None:
    counts = ClassCounts()
    counts.add(np.zeros((1, 3, 2, 2)), np.zeros((1, 3, 2, 2)), np.full((1, 2, 2), IGNORED))

    assert counts.accuracy is None


@pytest.mark.parametrize(
    ("array", "holds"),
    [
        ([[0.2, 0.8], [1.0, 0.0]], True),
        ([[0.2, 0.9]], False),
        ([[-0.2, 1.2]], False),
        ([[1.0], [1.0]], False),
        ([1.0, 0.0], False),
    ],
)
def test_probabilities_are_from_0_and_have_the_sum_1(array: list[object], holds: bool) -> None:
    assert holds_probabilities(np.array(array, np.float32)) is holds

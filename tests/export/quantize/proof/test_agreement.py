"""Classes of two networks: shares with their bounds, and accuracy where there are labels."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import r2_score

from normfold.contract.outputs.task import MultiLabel, Regression, Target
from normfold.contract.source_card import IGNORED
from normfold.export.quantize.proof.agreement import ClassCounts, ValueSums, flags, holds_probabilities, wilson_bounds


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


def test_values_are_compared_in_standard_deviations_of_their_target() -> None:
    targets = (Target(name="a", mean=100.0, std=20.0), Target(name="b", mean=0.0, std=0.5))
    rng = np.random.default_rng(0)
    true = rng.normal(size=(60, 2)) * [20, 0.5] + [100, 0]
    before, after = true + rng.normal(size=(60, 2)) * [4, 0.1], true + rng.normal(size=(60, 2)) * [6, 0.3]
    sums, without = (
        ValueSums(Regression(output="y", targets=targets)),
        ValueSums(Regression(output="y", targets=targets)),
    )
    for part in np.array_split(np.arange(60), 3):
        sums.add(before[part], after[part], true[part])
        without.add(before[part], after[part])

    found, alone = sums.change, without.change

    assert found is not None
    assert found.r2_before == pytest.approx(r2_score(true[:, 1], before[:, 1]), rel=1e-9)  # loses more than the first
    assert found.r2_after == pytest.approx(r2_score(true[:, 1], after[:, 1]), rel=1e-9)
    assert found.drop == found.r2_before - found.r2_after
    assert alone is not None
    difference = np.sqrt(np.square((after - before) / [20, 0.5]).mean(axis=0)).max()
    assert (alone.difference, alone.r2_before) == (pytest.approx(difference, rel=1e-9), None)
    assert alone.drop == alone.difference**2


def test_labels_are_given_from_the_threshold_on() -> None:
    task = MultiLabel(output="y", threshold=0.7)
    logits = np.linspace(-2, 2, 41, dtype=np.float32).reshape(-1, 1)
    counts = ClassCounts()
    counts.add(flags(logits, task), flags(logits[::-1], task), (1 / (1 + np.exp(-logits)) >= 0.7).astype(np.int64))

    assert counts.accuracy is not None
    assert counts.accuracy.before == 1
    assert counts.accuracy.after < 0.5

"""Decayed sums of inputs, and the drift scores computed from them."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.contract.drift.monitor import Monitor, MonitoredLayer
from normfold.service.drift.score import LayerSums, WindowSums, finite_rows, score_drift

WINDOW = 50
LAYER = MonitoredLayer(node="bn", means="m", squares="s", variances=(1.0, 1.0, 0.0), threshold=0.2)
MONITOR = Monitor(window_rows=WINDOW, layers=(LAYER,))
RNG = np.random.default_rng(0)


def rows(count: int, mean: float = 0.0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return what a monitor gives of rows of 16 positions each, two channels alive and one dead."""
    u = RNG.normal(mean, 1, (count, 3, 16))
    u[:, 2] = 0
    return [(u.mean(axis=2).astype(np.float32), (u**2).mean(axis=2).astype(np.float32))]


def seen(count: int, mean: float = 0.0) -> WindowSums:
    """Return the sums of so many requests of a row each."""
    sums = WindowSums.of(MONITOR)
    add_rows(sums, count, mean)
    return sums


def add_rows(sums: WindowSums, count: int, mean: float = 0.0) -> None:
    """Add so many requests of a row each."""
    for _ in range(count):
        sums.add_request(rows(1, mean), WINDOW)


def test_weight_of_a_request_decays() -> None:
    sums, given = WindowSums.of(MONITOR), [rows(1) for _ in range(7)]
    decay = (WINDOW - 1) / (WINDOW + 1)

    for row in given:
        sums.add_request(row, WINDOW)

    weights = decay ** np.arange(6, -1, -1.0)
    expected = sum(weight * row[0][0][0].astype(np.float64) for weight, row in zip(weights, given, strict=True))
    assert np.allclose(sums.layers[0].means, expected, rtol=1e-12)
    assert sums.weight == pytest.approx(weights.sum())
    assert sums.rows == 7


def test_rows_of_one_request_count_as_one_row_of_a_window() -> None:
    given, sums = rows(8), WindowSums.of(MONITOR)

    for _ in range(10):
        sums.add_request(given, WINDOW)

    assert sums.rows == 80
    assert sums.effective_rows < 10.001
    assert np.allclose(sums.layers[0].means / sums.weight, given[0][0].mean(axis=0, dtype=np.float64))


def test_effective_rows_of_an_endless_stream_are_a_window() -> None:
    sums = seen(40 * WINDOW)

    assert sums.effective_rows == pytest.approx(WINDOW, rel=1e-6)


def test_verdict_waits_until_the_window_is_nearly_full() -> None:
    sums = WindowSums.of(MONITOR)
    assert score_drift(MONITOR, sums).layers == ()
    add_rows(sums, 20, mean=5.0)

    found = score_drift(MONITOR, sums)

    assert found.drifted is None
    assert found.layers[0].score > 1


@pytest.mark.parametrize(("mean", "drifted"), [(0.0, False), (2.0, True)])
def test_rows_far_from_training_are_drifted(mean: float, drifted: bool) -> None:
    sums = seen(200, mean)

    found = score_drift(MONITOR, sums)

    assert found.drifted is drifted
    assert found.layers[0].drifted is drifted


def test_layer_without_a_threshold_has_a_score_and_no_verdict() -> None:
    monitor = Monitor(window_rows=WINDOW, layers=(LAYER.model_copy(update={"threshold": None}),))
    sums = seen(200, 5.0)

    found = score_drift(monitor, sums)

    assert found.drifted is None
    assert found.layers[0].drifted is None
    assert found.layers[0].score > 1


def test_old_drift_is_forgotten() -> None:
    sums = seen(200, 3.0)
    add_rows(sums, 10 * WINDOW)

    assert score_drift(MONITOR, sums).drifted is False


def test_channels_are_sorted_by_score() -> None:
    sums = WindowSums.of(MONITOR)
    given = rows(200)
    given[0][0][:, 1] += 4
    given[0][1][:, 1] += 16
    for place in range(200):
        sums.add_request([(given[0][0][place : place + 1], given[0][1][place : place + 1])], WINDOW)

    worst = score_drift(MONITOR, sums).layers[0].worst_channels

    assert worst[0].channel == 1
    assert worst[0].mean == pytest.approx(4, abs=0.2)
    assert [one.score for one in worst] == sorted((one.score for one in worst), reverse=True)


def test_channels_have_their_numbers_in_the_network() -> None:
    layer = LAYER.model_copy(update={"channels": (2, 5, 9)})
    sums = WindowSums.of(MONITOR)
    given = rows(200)
    given[0][0][:, 1] += 4
    given[0][1][:, 1] += 16
    sums.add_request(given, WINDOW)

    worst = score_drift(Monitor(window_rows=WINDOW, layers=(layer,)), sums).layers[0].worst_channels

    assert worst[0].channel == 5
    assert {one.channel for one in worst} == {2, 5, 9}


def test_sums_of_processes_add_up() -> None:
    one, other = seen(30), seen(40)
    other.rows_not_finite = 2
    together = WindowSums([LayerSums(np.zeros(3), np.zeros(3))])

    together.add(one)
    together.add(other)

    assert (together.rows, together.rows_not_finite) == (70, 2)
    assert together.weight == one.weight + other.weight
    assert np.array_equal(together.layers[0].means, one.layers[0].means + other.layers[0].means)


def test_non_finite_rows_are_left_out() -> None:
    means, squares = np.zeros((3, 3), np.float32), np.ones((3, 3), np.float32)
    means[1, 2] = np.nan

    ((kept, _),), finite = finite_rows(MONITOR, {"m": means, "s": squares})

    assert len(kept) == 2
    assert finite.tolist() == [True, False, True]


def test_copy_of_sums_is_independent() -> None:
    sums = seen(5)
    copy = sums.copy()
    means = copy.layers[0].means.copy()

    add_rows(sums, 5, mean=3.0)

    assert copy.rows == 5
    assert np.array_equal(copy.layers[0].means, means)

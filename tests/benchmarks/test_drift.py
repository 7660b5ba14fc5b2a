"""How often a stream is flagged, for rows whose statistics were made up."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.drift import drift as shift
from benchmarks.drift.drift import CLEAN, CORRUPTIONS, Found, looks, verdicts, window_scores
from normfold.contract.monitor import Monitor, WatchedLayer

ROWS, CHANNELS, POSITIONS = 300, 8, 16


def monitor_of(*thresholds: float, window_rows: int = 100) -> Monitor:
    layers = [
        WatchedLayer(node=f"n{i}", means=f"m{i}", squares=f"s{i}", variances=(1.0,) * CHANNELS, threshold=threshold)
        for i, threshold in enumerate(thresholds)
    ]
    return Monitor(window_rows=window_rows, layers=tuple(layers))


def rows_with(mean: float) -> tuple[np.ndarray, np.ndarray]:
    u = np.random.default_rng(0).normal(mean, 1, (ROWS, CHANNELS, POSITIONS))
    return u.mean(axis=2), (u**2).mean(axis=2)


def test_clean_rows_are_never_flagged_and_shifted_ones_always() -> None:
    monitor = monitor_of(0.05, 0.05)
    assert not any(looks(monitor, [rows_with(0), rows_with(0)], 0))
    assert all(looks(monitor, [rows_with(0), rows_with(1)], 0))  # one layer is enough
    assert not (window_scores(monitor, [rows_with(0), rows_with(0)], 0) > 1).any()
    assert (window_scores(monitor, [rows_with(0), rows_with(1)], 0) > 1).all()


def test_a_look_is_at_every_twentieth_row_of_all_passes_once_a_window_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shift, "PASSES", 2)
    found = looks(monitor_of(1.0), [rows_with(0)], 0)
    fills = 100 * np.log((1 + 0.9) / (1 - 0.9)) / 2  # w tanh(n / w) effective rows of n, nearly: 0.9 w after 147
    assert len(found) == 2 * ROWS // 20 - int(fills) // 20


def test_drift_of_the_last_rows_is_flagged_though_most_of_a_flat_window_is_clean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few far-off rows weigh more while they are new: a stream is flagged now and then where flat windows are not."""
    monkeypatch.setattr(shift, "PASSES", 20)
    means, squares = np.zeros((ROWS, CHANNELS)), np.ones((ROWS, CHANNELS))
    means[:3], squares[:3] = 20.0, 401.0
    seen = looks(monitor_of(1.0, window_rows=20), [(means, squares)], 0)
    assert 0 < np.mean(seen) < 0.5


def found_with(clean_looks: list[float]) -> dict[str, Found]:
    found = {
        name: Found(before=[0.5], score=[9.0], flagged=[1.0], looks_flagged=[1.0], after=[0.99]) for name in CORRUPTIONS
    }
    found[CLEAN] = Found(before=[0.99], score=[0.2], flagged=[0.0], looks_flagged=clean_looks, after=[0.99])
    return found


def failed(found: dict[str, Found]) -> list[str]:
    return [line[0] for line in verdicts(found) if not shift.verdict(*line)]


def test_a_clean_stream_that_is_flagged_in_more_than_a_hundredth_of_its_looks_fails() -> None:
    assert failed(found_with([0.0, 0.01])) == []
    assert failed(found_with([0.0, 0.03])) == ["clean looks flagged"]

"""The drift benchmark: flags of windows and streams of rows with given statistics, and its limits."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.drift import drift
from benchmarks.drift.drift import CLEAN, CORRUPTIONS, CorruptionResults, stream_flags, verdicts, window_scores
from normfold.contract.drift.monitor import Monitor, MonitoredLayer

ROWS, CHANNELS, POSITIONS = 300, 8, 16


def monitor_of(*thresholds: float, window_rows: int = 100) -> Monitor:
    layers = [
        MonitoredLayer(node=f"n{i}", means=f"m{i}", squares=f"s{i}", variances=(1.0,) * CHANNELS, threshold=threshold)
        for i, threshold in enumerate(thresholds)
    ]
    return Monitor(window_rows=window_rows, layers=tuple(layers))


def rows_with(mean: float) -> tuple[np.ndarray, np.ndarray]:
    u = np.random.default_rng(0).normal(mean, 1, (ROWS, CHANNELS, POSITIONS))
    return u.mean(axis=2), (u**2).mean(axis=2)


@pytest.mark.slow
def test_clean_rows_are_not_flagged_and_drifted_ones_always() -> None:
    monitor = monitor_of(0.05, 0.05)
    assert not any(stream_flags(monitor, [rows_with(0), rows_with(0)], 0))
    assert all(stream_flags(monitor, [rows_with(0), rows_with(1)], 0))  # one layer is enough
    assert not (window_scores(monitor, [rows_with(0), rows_with(0)], 0) > 1).any()
    assert (window_scores(monitor, [rows_with(0), rows_with(1)], 0) > 1).all()


def test_stream_is_evaluated_every_twenty_rows_once_its_window_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "PASSES", 2)
    found = stream_flags(monitor_of(1.0), [rows_with(0)], 0)
    fills = 100 * np.log((1 + 0.9) / (1 - 0.9)) / 2  # w tanh(n / w) effective rows of n, nearly: 0.9 w after 147
    assert len(found) == 2 * ROWS // 20 - int(fills) // 20


def test_stream_is_flagged_by_recent_rows_though_a_flat_window_is_clean_as_a_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few far-off rows weigh more while they are new: a stream is flagged now and then where flat windows are not."""
    monkeypatch.setattr(drift, "PASSES", 20)
    means, squares = np.zeros((ROWS, CHANNELS)), np.ones((ROWS, CHANNELS))
    means[:3], squares[:3] = 20.0, 401.0
    seen = stream_flags(monitor_of(1.0, window_rows=20), [(means, squares)], 0)
    assert 0 < np.mean(seen) < 0.5


def found_with(clean_flags: list[float]) -> dict[str, CorruptionResults]:
    found = {
        name: CorruptionResults(before=[0.5], score=[9.0], flagged=[1.0], stream_flagged=[1.0], after=[0.99])
        for name in CORRUPTIONS
    }
    found[CLEAN] = CorruptionResults(
        before=[0.99], score=[0.2], flagged=[0.0], stream_flagged=clean_flags, after=[0.99]
    )
    return found


def failed(found: dict[str, CorruptionResults]) -> list[str]:
    return [line[0] for line in verdicts(found) if not drift.verdict(*line)]


def test_clean_stream_flagged_in_over_one_per_cent_of_its_evaluations_fails() -> None:
    assert failed(found_with([0.0, 0.01])) == []
    assert failed(found_with([0.0, 0.03])) == ["clean stream flagged"]

"""The drift monitor of an adapted version: its thresholds come from the samples, if these suffice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from normfold.contract.drift.monitor import divergence, read_monitor
from normfold.export.adapt import adapt
from normfold.export.bundle.export import export_bundle
from tests.support.command import RunCommand, in_one_line
from tests.support.onnx_models import (
    run32,
    shifted_inputs,
    small_convnet,
)


@pytest.mark.slow
def test_thresholds_are_computed_from_the_samples(normfold: RunCommand, repository: Path, tmp_path: Path) -> None:
    """Windows of such inputs are below the thresholds of the new version, windows of what training saw above them."""
    np.savez(tmp_path / "samples.npz", x=shifted_inputs(400))
    assert "Inputs are monitored for drift at 1 layer" in normfold("adapt", "models/net", "--samples", "samples.npz")[1]

    monitor = read_monitor(repository / "net" / "2" / "monitor.json")
    assert monitor.calibration_rows == 400
    (layer,) = monitor.layers
    assert layer.threshold is not None
    graph = onnx.load(repository / "net" / "2" / "monitor.onnx")

    def score(x: np.ndarray) -> float:
        found = dict(zip((value.name for value in graph.graph.output), run32(graph, {"x": x}), strict=True))
        means, squares = (found[name].mean(axis=0, dtype=np.float64) for name in (layer.means, layer.squares))
        return float(divergence(means, squares - means**2, np.array(layer.variances)).mean())

    assert score(shifted_inputs(200, seed=5)) < layer.threshold
    assert score(np.random.default_rng(6).normal(size=(200, 4, 5, 5)).astype(np.float32)) > layer.threshold


@pytest.mark.slow
def test_thresholds_use_as_many_samples_as_allowed(
    normfold: RunCommand, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second of 201 would be no more than 101."""
    monkeypatch.setattr(adapt, "MAX_CALIBRATION_SAMPLES", 150)
    np.savez(tmp_path / "samples.npz", x=np.random.default_rng(0).permutation(shifted_inputs(201)))

    assert "thresholds come from 150 samples." in in_one_line(
        normfold("adapt", "models/net", "--samples", "samples.npz")[1]
    )
    assert read_monitor(repository / "net" / "2" / "monitor.json").calibration_rows == 150


@pytest.mark.slow
@pytest.mark.parametrize(("count", "has_thresholds"), [(32, False), (99, False), (100, True)])
def test_too_few_samples_for_thresholds_are_reported(
    normfold: RunCommand, repository: Path, tmp_path: Path, count: int, has_thresholds: bool
) -> None:
    """Enough to adapt, too few for thresholds of drift; the version that is adapted may well have some."""
    says = "without thresholds, which need at least 100 samples: scores are shown, `drifted` stays null, and the alert"
    np.savez(tmp_path / "samples.npz", x=shifted_inputs(count))
    assert repository.exists()

    _, text, _ = normfold("adapt", "models/net", "--samples", "samples.npz")
    record = json.loads(normfold("adapt", "models/net", "--samples", "samples.npz", "--json")[1])["monitor"]

    assert (says in in_one_line(text)) is not has_thresholds
    assert (says in record["sentence"]) is not has_thresholds
    assert record["calibration_rows"] == (count if has_thresholds else 0)
    assert [layer["threshold"] is not None for layer in record["layers"]] == [has_thresholds]


def test_bundle_without_drift_monitor_stays_without(normfold: RunCommand, tmp_path: Path, samples: Path) -> None:
    onnx.save(small_convnet(np.random.default_rng(0)), tmp_path / "net.onnx")
    export_bundle(tmp_path / "net.onnx", tmp_path / "models", "net", monitoring=False)

    assert "Its inputs are not monitored for drift." in normfold("adapt", "models/net", "--samples", str(samples))[1]

    assert not (tmp_path / "models" / "net" / "2" / "monitor.onnx").exists()

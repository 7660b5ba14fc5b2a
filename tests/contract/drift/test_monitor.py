"""Monitor: the divergence against samples of Gaussians and against the textbook formula; the JSON file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from normfold.contract.drift.monitor import Monitor, MonitoredLayer, MonitorError, divergence, read_monitor


def test_divergence_of_training_statistics_is_zero() -> None:
    normal = np.array([1.0, 0.5, 0.0])

    assert np.allclose(divergence(np.zeros(3), normal, normal), 0, atol=1e-15)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 1.0), (0.0, 2.0), (-1.0, 0.3)])
def test_divergence_is_that_of_kullback_and_leibler(mean: float, std: float) -> None:
    x = np.random.default_rng(0).normal(mean, std, 1_000_000)
    log_p = -0.5 * ((x - mean) / std) ** 2 - np.log(std)
    log_q = -0.5 * x**2

    found = divergence(np.array([mean]), np.array([std**2]), np.ones(1))[0]

    assert found == pytest.approx((log_p - log_q).mean(), rel=0.01)


def test_divergence_of_a_constant_channel_is_zero_only_without_change() -> None:
    still, moved, lively = divergence(np.array([0.0, 3.0, 0.0]), np.array([0.0, 0.0, 9.0]), np.zeros(3))

    assert still == 0
    assert moved > 1
    assert lively > 1


def test_divergence_of_a_vanished_variance_is_large_and_finite() -> None:
    (found,) = divergence(np.zeros(1), np.zeros(1), np.ones(1))

    assert 100 < found < np.inf


def test_monitor_is_read_as_written(tmp_path: Path) -> None:
    layer = MonitoredLayer(node="bn", means="bn.means", squares="bn.squares", variances=(1.0, 0.5), threshold=0.25)
    monitor = Monitor(window_rows=200, layers=(layer,), calibration_rows=179)
    path = tmp_path / "monitor.json"
    path.write_text(monitor.model_dump_json())

    assert read_monitor(path) == monitor


def test_channel_indices_are_those_of_the_file_or_all(tmp_path: Path) -> None:
    path = tmp_path / "monitor.json"
    layer = '{"node": "bn", "means": "m", "squares": "s", "variances": [1, 1]'
    for channels, numbers in (("", (0, 1)), (', "channels": null', (0, 1)), (', "channels": [3, 8]', (3, 8))):
        path.write_text(f'{{"window_rows": 200, "layers": [{layer}{channels}}}]}}')

        assert read_monitor(path).layers[0].channel_indices == numbers


@pytest.mark.parametrize("channels", ["[3]", "[3, 4, 5]"])
def test_monitor_with_more_or_fewer_channels_than_variances_is_refused(tmp_path: Path, channels: str) -> None:
    path = tmp_path / "monitor.json"
    layer = f'{{"node": "bn", "means": "m", "squares": "s", "variances": [1, 1], "channels": {channels}}}'
    path.write_text(f'{{"window_rows": 200, "layers": [{layer}]}}')

    with pytest.raises(MonitorError, match="channels have 2 variances"):
        read_monitor(path)


@pytest.mark.parametrize("text", ["", "{}", '{"window_rows": 0, "layers": []}'])
def test_wrong_monitor_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "monitor.json"
    path.write_text(text)

    with pytest.raises(MonitorError, match=r"monitor\.json' has a wrong field .*\.$"):
        read_monitor(path)

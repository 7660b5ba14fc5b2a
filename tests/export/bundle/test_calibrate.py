"""Thresholds of the drift monitor: the rows that they come from, and when there are none."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from normfold.contract.drift.monitor import MONITOR_NAME
from normfold.export.bundle.calibrate import MAX_ROWS, MIN_ROWS, WINDOW_ROWS, calibrate
from normfold.export.bundle.write_monitor import save_monitor
from tests.support.onnx_models import conv_blocks, fitted_conv_block, gemm_block, save_model, varied_rows, window_scores


@pytest.mark.slow
def test_thresholds_let_normal_windows_pass_and_others_not(tmp_path: Path) -> None:
    path = tmp_path / MONITOR_NAME
    layers = save_monitor(
        save_model(fitted_conv_block(np.random.default_rng(0), varied_rows(2000, seed=0)["x"]), tmp_path), path
    )

    monitor = calibrate(path, layers, varied_rows(300, seed=1))
    (layer,) = monitor.layers
    assert layer.threshold is not None

    normal = [window_scores(path, monitor.layers, varied_rows(WINDOW_ROWS, seed))[0] for seed in range(100, 300)]
    assert monitor.calibration_rows == 300
    assert np.mean([score > layer.threshold for score in normal]) < 0.02
    for shifted in (varied_rows(WINDOW_ROWS, 7)["x"] + 1, varied_rows(WINDOW_ROWS, 7)["x"] * 0.3):
        assert window_scores(path, monitor.layers, {"x": shifted})[0] > 2 * layer.threshold


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [1e25, np.inf, np.nan])
def test_rows_that_a_layer_does_not_hold_finite_do_not_count(tmp_path: Path, wrong: float) -> None:
    path = tmp_path / MONITOR_NAME
    layers = save_monitor(
        save_model(fitted_conv_block(np.random.default_rng(0), varied_rows(2000, seed=0)["x"]), tmp_path), path
    )
    x = varied_rows(300, seed=1)["x"]
    spoilt = x.copy()
    spoilt[[3, 70, 299]] = wrong

    monitor = calibrate(path, layers, {"x": spoilt})

    without = calibrate(path, layers, {"x": np.delete(x, [3, 70, 299], axis=0)})
    assert monitor.calibration_rows == without.calibration_rows == 297
    assert monitor.layers[0].threshold == pytest.approx(without.layers[0].threshold, rel=1e-5)


def test_too_few_finite_rows_give_no_threshold(tmp_path: Path) -> None:
    path = tmp_path / MONITOR_NAME
    layers = save_monitor(save_model(conv_blocks(np.random.default_rng(0), 1), tmp_path), path)
    x = varied_rows(MIN_ROWS + 20, 0)["x"]
    x[:21] = 1e25

    monitor = calibrate(path, layers, {"x": x})

    assert (monitor.calibration_rows, [layer.threshold for layer in monitor.layers]) == (0, [None])


@pytest.mark.slow
def test_calibration_takes_limited_rows_from_everywhere(tmp_path: Path) -> None:
    """Rows of two kinds, one behind the other, as pictures lie class by class."""
    path = tmp_path / MONITOR_NAME
    count = 40_000  # shares of all of them in each window would be 640 MB
    layers = save_monitor(save_model(gemm_block(np.random.default_rng(0), 17), tmp_path), path)
    x = np.random.default_rng(1).normal(size=(count, 6)).astype(np.float32)
    x[count // 2 :] += 3
    tracemalloc.start()

    monitor = calibrate(path, layers, {"x": x})

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6
    assert monitor.calibration_rows == MAX_ROWS
    assert monitor == calibrate(path, layers, {"x": x[:: count // MAX_ROWS]})


@pytest.mark.parametrize("count", [None, MIN_ROWS - 1])
def test_calibration_of_too_few_rows_gives_no_threshold(tmp_path: Path, count: int | None) -> None:
    path = tmp_path / MONITOR_NAME
    layers = save_monitor(save_model(conv_blocks(np.random.default_rng(0), 1), tmp_path), path)

    monitor = calibrate(path, layers, None if count is None else varied_rows(count, 0))

    assert monitor.calibration_rows == 0
    assert [layer.threshold for layer in monitor.layers] == [None]

"""Thresholds of `monitor.json`, taken from calibration rows: normal rows, held out of training where there are enough.

A score is a layer's divergence over a window of rows, the mean over its channels (`contract.drift.monitor.divergence`).
It is never 0, even for normal inputs: a window is a sample, and the rows that thresholds come from are one too. So
windows are drawn from resamples of those rows (a bootstrap of a bootstrap; Efron & Tibshirani 1993, chapter 6), and the
threshold of each layer is what QUANTILE of their scores do not exceed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from normfold.contract.drift.monitor import Monitor, MonitoredLayer, divergence
from normfold.export.arrays import Tensor
from normfold.export.bundle.evenly_spaced import evenly_spaced
from normfold.export.verify.inputs import read_inputs
from normfold.export.verify.runner import Inputs, Runner

WINDOW_ROWS = 200
MIN_ROWS = 100
"""Fewer calibration rows give no thresholds: what they have in common by chance would be taken for normal."""

MAX_ROWS = 2000
"""More would make an export longer and take more memory, and a threshold hardly better."""

WINDOWS = 2000
QUANTILE = 0.999
_ROWS_AT_ONCE = 64


def calibrate(
    path: Path, layers: Sequence[MonitoredLayer], calibration: Path | Inputs | None, seed: int = 0
) -> Monitor:
    """Return the monitored layers, with thresholds if there are rows to take them from.

    Args:
        path: monitor.onnx.
        layers: those that it monitors.
        calibration: rows, as the served network takes them: an .npz file, or arrays by input; None if there are none.
            Of more than MAX_ROWS, so many are taken, evenly spaced. Rows that a layer does not hold finite are left
            out, as the service leaves them out.
        seed: of the windows drawn.

    Returns:
        With `calibration_rows` the number of rows that the thresholds come from: 0 where there are none, since fewer
        than MIN_ROWS counted, or since no layer's scores give a threshold that is positive and finite.

    Raises:
        ModelInputError: the file is wrong.
    """
    without = Monitor(window_rows=WINDOW_ROWS, layers=tuple(layers))
    runner = Runner(path)
    inputs = read_inputs(calibration, runner.inputs) if isinstance(calibration, Path) else calibration
    if inputs is None:
        return without
    places = evenly_spaced(min(len(array) for array in inputs.values()), MAX_ROWS)
    if len(places) < MIN_ROWS:
        return without
    given = _run(runner, {name: array[places] for name, array in inputs.items()})
    rows = len(given[layers[0].means])
    if rows < MIN_ROWS:
        return without
    rng = np.random.default_rng(seed)
    weights = np.stack([_window(rows, rng) for _ in range(WINDOWS)])
    calibrated = tuple(_with_threshold(layer, _scores(layer, given, weights)) for layer in layers)
    counted = rows if any(layer.threshold is not None for layer in calibrated) else 0
    return Monitor(window_rows=WINDOW_ROWS, layers=calibrated, calibration_rows=counted)


def _with_threshold(layer: MonitoredLayer, scores: Tensor) -> MonitoredLayer:
    """Return a layer with the threshold that its scores give, if they give one: all may be 0."""
    threshold = float(np.quantile(scores, QUANTILE))
    usable = threshold if 0 < threshold < math.inf else None
    return MonitoredLayer.model_validate({**layer.model_dump(), "threshold": usable})  # a copy would not be checked


def _window(rows: int, rng: np.random.Generator) -> Tensor:
    """Return the share of each row in a window drawn from a resample of all rows, (rows,)."""
    resampled = rng.multinomial(rows, np.full(rows, 1 / rows)) / rows
    window: Tensor = rng.multinomial(WINDOW_ROWS, resampled) / WINDOW_ROWS
    return window


def _scores(layer: MonitoredLayer, given: dict[str, Tensor], weights: Tensor) -> Tensor:
    """Return the score of each window, (windows,)."""
    means = weights @ given[layer.means]
    variances = weights @ given[layer.squares] - means**2
    scores: Tensor = divergence(means, variances, np.array(layer.variances)).mean(axis=1)
    return scores


def _run(runner: Runner, inputs: Inputs) -> dict[str, Tensor]:
    """Return what the monitor gives of the rows that it holds finite throughout, (rows, channels), float64."""
    rows = min(len(array) for array in inputs.values())
    parts = [
        runner.run({name: array[start : start + _ROWS_AT_ONCE] for name, array in inputs.items()})
        for start in range(0, rows, _ROWS_AT_ONCE)
    ]
    given = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    finite = np.all([np.isfinite(array).all(axis=1) for array in given.values()], axis=0)
    return {name: array[finite].astype(np.float64) for name, array in given.items()}

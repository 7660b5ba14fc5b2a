"""What scores are normal: the thresholds of `monitor.json`, from held-out rows.

A score is a layer's divergence over a window of rows, the mean over its channels (`contract.monitor.divergence`). It is
never 0, even for normal inputs: a window is a sample, and the rows that thresholds come from are one too. So windows
are drawn from resamples of those rows (a bootstrap of a bootstrap; Efron & Tibshirani 1993, chapter 6), and the
threshold of each layer is what QUANTILE of their scores do not exceed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contract.monitor import Monitor, WatchedLayer, divergence
from export.feeds import read_feeds
from export.runner import Feeds, Runner, Tensor

WINDOW_ROWS = 200
FEWEST_ROWS = 100
"""Of fewer held-out rows nothing is said: what they have in common by chance would be taken for normal."""

WINDOWS = 2000
QUANTILE = 0.999
_ROWS_AT_ONCE = 64


def calibrated(path: Path, layers: Sequence[WatchedLayer], held_out: Path | Feeds | None, seed: int = 0) -> Monitor:
    """Return what is watched, with thresholds if there are rows to take them from.

    Args:
        path: monitor.onnx.
        layers: what it watches.
        held_out: rows, as the served network takes them: an .npz file, or arrays by input; None if there are none.
        seed: of the windows drawn.

    Raises:
        FeedError: the file is wrong.
    """
    runner = Runner(path)
    feeds = read_feeds(held_out, runner.inputs) if isinstance(held_out, Path) else held_out
    rows = 0 if feeds is None else min(len(array) for array in feeds.values())
    if feeds is None or rows < FEWEST_ROWS:
        return Monitor(window_rows=WINDOW_ROWS, layers=tuple(layers))
    given = _run(runner, feeds, rows)
    rng = np.random.default_rng(seed)
    weights = np.stack([_window(rows, rng) for _ in range(WINDOWS)])
    judged = [
        layer.model_copy(update={"threshold": float(np.quantile(_scores(layer, given, weights), QUANTILE))})
        for layer in layers
    ]
    return Monitor(window_rows=WINDOW_ROWS, layers=tuple(judged), calibration_rows=rows)


def _window(rows: int, rng: np.random.Generator) -> Tensor:
    """Return the share of each row in a window drawn from a resample of all rows, (rows,)."""
    resampled = rng.multinomial(rows, np.full(rows, 1 / rows)) / rows
    window: Tensor = rng.multinomial(WINDOW_ROWS, resampled) / WINDOW_ROWS
    return window


def _scores(layer: WatchedLayer, given: dict[str, Tensor], weights: Tensor) -> Tensor:
    """Return the score of each window, (windows,)."""
    means = weights @ given[layer.means]
    variances = weights @ given[layer.squares] - means**2
    scores: Tensor = divergence(means, variances, np.array(layer.variances)).mean(axis=1)
    return scores


def _run(runner: Runner, feeds: Feeds, rows: int) -> dict[str, Tensor]:
    """Return what the monitor gives of all rows, float64."""
    parts = [
        runner.run({name: array[start : start + _ROWS_AT_ONCE] for name, array in feeds.items()})
        for start in range(0, rows, _ROWS_AT_ONCE)
    ]
    return {name: np.concatenate([part[name] for part in parts]).astype(np.float64) for name in parts[0]}

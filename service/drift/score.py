"""The drift of live inputs from those of training, measured by the statistics that were folded.

A sample of the inputs also runs through the bundle's `monitor.onnx`, in a thread and for a bounded share of one
processor's time. The statistics of its rows go into exponentially decayed sums: a row that is `window_rows` rows old
has little weight. A layer's score is the divergence of its sums from the statistics of training
(`contract.drift.monitor`), the mean over its channels, in nats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from normfold.contract.arrays import Float64Array
from normfold.contract.drift.monitor import Monitor, MonitoredLayer, divergence

MIN_WINDOW_FILL = 0.9
"""Part of a window that must be filled before a score is compared with its threshold."""


@dataclass
class LayerSums:
    """Decayed sums over rows of u and u², (channels,), float64. u is centred, so that little cancels."""

    means: Float64Array
    squares: Float64Array


@dataclass
class WindowSums:
    """Decayed sums of the inputs of a version.

    Attributes:
        layers: in the monitor's order.
        weight: sum of the requests' weights; the newest request has 1.
        weight_of_squares: sum of their squares.
        rows: that were added, each counted once.
        rows_not_finite: rows whose statistics are NaN or infinite; they are in no sum.
    """

    layers: list[LayerSums]
    weight: float = 0.0
    weight_of_squares: float = 0.0
    rows: int = 0
    rows_not_finite: int = 0

    @staticmethod
    def of(monitor: Monitor) -> WindowSums:
        """Return empty sums for the layers of a monitor."""
        sizes = [len(layer.variances) for layer in monitor.layers]
        return WindowSums([LayerSums(np.zeros(size), np.zeros(size)) for size in sizes])

    @property
    def effective_rows(self) -> float:
        """Effective sample size of the weights w: (Σw)² / Σw² (Kish 1965, Survey Sampling)."""
        return self.weight**2 / self.weight_of_squares if self.weight_of_squares else 0.0

    def add_request(self, rows: Sequence[tuple[Float64Array, Float64Array]], window_rows: int) -> None:
        """Add the statistics of one request, as the mean over its rows.

        Rows of one request are often alike, as the frames of a film are, while thresholds are those of independent
        rows. With weights that decay by (w - 1) / (w + 1) a request, the effective rows of an endless stream are w.

        Args:
            rows: for each layer, the means and squares that the monitor gave, each (rows, channels); at least one row.
            window_rows: w.
        """
        decay = (window_rows - 1) / (window_rows + 1)
        for sums, (means, squares) in zip(self.layers, rows, strict=True):
            sums.means = decay * sums.means + means.mean(axis=0, dtype=np.float64)
            sums.squares = decay * sums.squares + squares.mean(axis=0, dtype=np.float64)
        self.weight = decay * self.weight + 1
        self.weight_of_squares = decay**2 * self.weight_of_squares + 1
        self.rows += len(rows[0][0])

    def add(self, other: WindowSums) -> None:
        """Add the sums of another process."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.means = mine.means + theirs.means
            mine.squares = mine.squares + theirs.squares
        self.weight += other.weight
        self.weight_of_squares += other.weight_of_squares
        self.rows += other.rows
        self.rows_not_finite += other.rows_not_finite

    def copy(self) -> WindowSums:
        """Return a copy; arrays are shared, since they are replaced and never changed in place."""
        layers = [LayerSums(layer.means, layer.squares) for layer in self.layers]
        return WindowSums(layers, self.weight, self.weight_of_squares, self.rows, self.rows_not_finite)


@dataclass(frozen=True)
class ChannelDrift:
    """One channel of a layer: its index, its divergence in nats, mean and standard deviation of u (training: 0, 1).

    `name` is that of a table's input, such as "city is 'Bern'"; None in other layers.
    """

    channel: int
    score: float
    mean: float
    std: float
    name: str | None = None


@dataclass(frozen=True)
class LayerDrift:
    """Drift of one layer; `drifted` is None while the window is not full, or without a threshold."""

    node: str
    score: float
    threshold: float | None
    drifted: bool | None
    worst_channels: tuple[ChannelDrift, ...]


@dataclass(frozen=True)
class DriftScore:
    """Drift of the inputs of one version.

    Attributes:
        rows: that were sampled.
        rows_not_finite: sampled rows whose statistics are NaN or infinite, not counted in `rows`.
        window_fill: effective rows over the rows of a window.
        drifted: whether a layer's score is above its threshold; None while the window is not full, or without
            thresholds.
        layers: from the first to the last; empty before the first row.
    """

    rows: int
    rows_not_finite: int
    window_fill: float
    drifted: bool | None
    layers: tuple[LayerDrift, ...] = field(default=())


def score_drift(monitor: Monitor, sums: WindowSums, max_channels: int = 5) -> DriftScore:
    """Return the drift of some sums.

    Args:
        monitor: the statistics of training.
        sums: of the inputs.
        max_channels: number of channels to describe in each layer, those with the highest scores.
    """
    fill = sums.effective_rows / monitor.window_rows
    if not sums.weight:
        return DriftScore(sums.rows, sums.rows_not_finite, 0.0, None)
    pairs = zip(monitor.layers, sums.layers, strict=True)
    layers = tuple(_score_layer(layer, one, sums.weight, fill >= MIN_WINDOW_FILL, max_channels) for layer, one in pairs)
    known = [layer.drifted for layer in layers if layer.drifted is not None]
    return DriftScore(sums.rows, sums.rows_not_finite, fill, any(known) if known else None, layers)


def _score_layer(layer: MonitoredLayer, sums: LayerSums, weight: float, is_full: bool, max_channels: int) -> LayerDrift:
    means = sums.means / weight
    variances = np.maximum(sums.squares / weight - means**2, 0.0)
    scores = divergence(means, variances, np.array(layer.variances))
    score = float(scores.mean())
    channels = tuple(
        ChannelDrift(
            layer.channel_indices[place],
            float(scores[place]),
            float(means[place]),
            float(np.sqrt(variances[place])),
            None if layer.names is None else layer.names[place],
        )
        for place in np.argsort(-scores, kind="stable")[:max_channels]
    )
    drifted = score > layer.threshold if is_full and layer.threshold is not None else None
    return LayerDrift(layer.node, score, layer.threshold, drifted, channels)


def finite_rows(
    monitor: Monitor, results: Mapping[str, Float64Array]
) -> tuple[list[tuple[Float64Array, Float64Array]], Float64Array]:
    """Return the rows of a run of the monitor whose statistics are finite.

    Args:
        monitor: names the outputs.
        results: output name to (rows, channels).

    Returns:
        For each layer (means, squares) of the finite rows, each (rows, channels); and (rows,) bool: which are finite.
    """
    given = [(results[layer.means], results[layer.squares]) for layer in monitor.layers]
    finite = np.all([np.isfinite(one).all(axis=1) for pair in given for one in pair], axis=0)
    return [(means[finite], squares[finite]) for means, squares in given], finite

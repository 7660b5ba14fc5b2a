"""Whether live inputs look like those that a network was trained on, through the statistics that were folded.

A sample of what the network is asked also runs through the bundle's `monitor.onnx`, in a thread and for a bounded share
of one processor's time. What it says of each row goes into sums that forget: after `window_rows` rows a row counts for
little. A layer's score is how far its sums are from normal (`contract.monitor`), the mean over its channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from normfold.contract.arrays import Float64Array
from normfold.contract.monitor import Monitor, MonitoredLayer, divergence

FULL = 0.9
"""Of a window: as much must be there before a score is held against its threshold."""


@dataclass
class LayerSums:
    """Decayed sums over rows, (channels,), float64. They are of centred values, so that little cancels."""

    means: Float64Array
    squares: Float64Array


@dataclass
class Sums:
    """What was seen of a version.

    Attributes:
        weight: of all rows, the newest row's being 1.
        weight_of_squares: sum of the rows' squared weights.
        rows: seen, whatever they weigh.
        rows_not_finite: that nothing can be said of, and that are in no sum.
        layers: in the monitor's order.
    """

    layers: list[LayerSums]
    weight: float = 0.0
    weight_of_squares: float = 0.0
    rows: int = 0
    rows_not_finite: int = 0

    @staticmethod
    def of(monitor: Monitor) -> Sums:
        """Return sums of nothing."""
        sizes = [len(layer.variances) for layer in monitor.layers]
        return Sums([LayerSums(np.zeros(size), np.zeros(size)) for size in sizes])

    @property
    def effective_rows(self) -> float:
        """How many rows of equal weight would tell as much: (Σw)² / Σw² (Kish 1965)."""
        return self.weight**2 / self.weight_of_squares if self.weight_of_squares else 0.0

    def add_request(self, rows: Sequence[tuple[Float64Array, Float64Array]], window_rows: int) -> None:
        """Add what was seen of one request: the mean over its rows.

        Rows of one request are often alike, as frames of one film are, and thresholds are those of rows that have
        nothing to do with each other. With weights falling by (w - 1) / (w + 1) a request, the effective rows of an
        endless stream are w.

        Args:
            rows: for each layer, what the monitor gave: (rows, channels) twice; at least one row.
            window_rows: w.
        """
        decay = (window_rows - 1) / (window_rows + 1)
        for sums, (means, squares) in zip(self.layers, rows, strict=True):
            sums.means = decay * sums.means + means.mean(axis=0, dtype=np.float64)
            sums.squares = decay * sums.squares + squares.mean(axis=0, dtype=np.float64)
        self.weight = decay * self.weight + 1
        self.weight_of_squares = decay**2 * self.weight_of_squares + 1
        self.rows += len(rows[0][0])

    def add(self, other: Sums) -> None:
        """Add what another process has seen."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.means = mine.means + theirs.means
            mine.squares = mine.squares + theirs.squares
        self.weight += other.weight
        self.weight_of_squares += other.weight_of_squares
        self.rows += other.rows
        self.rows_not_finite += other.rows_not_finite

    def copy(self) -> Sums:
        """Return these sums as they are now."""
        layers = [LayerSums(layer.means, layer.squares) for layer in self.layers]  # which are replaced, never changed
        return Sums(layers, self.weight, self.weight_of_squares, self.rows, self.rows_not_finite)


@dataclass(frozen=True)
class Channel:
    """One channel of a layer: its place, its divergence, and the mean and standard deviation of u, normally 0 and 1."""

    channel: int
    score: float
    mean: float
    std: float


@dataclass(frozen=True)
class LayerDrift:
    """How far a layer is from normal; `shifted` is None where nobody can say."""

    node: str
    score: float
    threshold: float | None
    shifted: bool | None
    worst: tuple[Channel, ...]


@dataclass(frozen=True)
class DriftScore:
    """How far a version's inputs are from normal.

    Attributes:
        rows: that were looked at.
        rows_not_finite: of which nothing can be said, beside them.
        fill: effective rows, of a window.
        shifted: whether a layer's score is above its threshold; None while the window is not full, or where there are
            no thresholds.
        layers: from the front to the back; empty before the first row.
    """

    rows: int
    rows_not_finite: int
    fill: float
    shifted: bool | None
    layers: tuple[LayerDrift, ...] = field(default=())


def measure(monitor: Monitor, sums: Sums, worst: int = 5) -> DriftScore:
    """Return how far sums are from normal, with each layer's worst channels."""
    fill = sums.effective_rows / monitor.window_rows
    if not sums.weight:
        return DriftScore(sums.rows, sums.rows_not_finite, 0.0, None)
    pairs = zip(monitor.layers, sums.layers, strict=True)
    layers = tuple(_measure_layer(layer, one, sums.weight, fill >= FULL, worst) for layer, one in pairs)
    said = [layer.shifted for layer in layers if layer.shifted is not None]
    return DriftScore(sums.rows, sums.rows_not_finite, fill, any(said) if said else None, layers)


def _measure_layer(layer: MonitoredLayer, sums: LayerSums, weight: float, is_full: bool, worst: int) -> LayerDrift:
    means = sums.means / weight
    variances = np.maximum(sums.squares / weight - means**2, 0.0)
    scores = divergence(means, variances, np.array(layer.variances))
    score = float(scores.mean())
    channels = tuple(
        Channel(
            layer.channel_indices[place], float(scores[place]), float(means[place]), float(np.sqrt(variances[place]))
        )
        for place in np.argsort(-scores, kind="stable")[:worst]
    )
    shifted = score > layer.threshold if is_full and layer.threshold is not None else None
    return LayerDrift(layer.node, score, layer.threshold, shifted, channels)


def rows_of(
    monitor: Monitor, results: Mapping[str, Float64Array]
) -> tuple[list[tuple[Float64Array, Float64Array]], Float64Array]:
    """Return what a run of the monitor gave of finite rows, by layer, and which rows those are, (rows,) bool."""
    given = [(results[layer.means], results[layer.squares]) for layer in monitor.layers]
    finite = np.all([np.isfinite(one).all(axis=1) for pair in given for one in pair], axis=0)
    return [(means[finite], squares[finite]) for means, squares in given], finite

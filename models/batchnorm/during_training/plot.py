"""Plot of the differences between batch and running statistics, by epoch: a line for each BatchNorm."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from normfold.contract.atomic_write import write_atomically
from normfold.models.batchnorm.during_training.causes import MAX_DIFFERENCE
from normfold.models.statistics.epochs import EpochStatistics, LayerFigures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED_LAYERS = 5
"""Layers that the legend names: those with the largest differences in the best epoch."""

COLOURS = ("#cc6677", "#4477aa", "#228833", "#ccbb44", "#aa3377")
"""Distinct for colour-blind readers too; all other layers are grey."""

MIN_DIFFERENCE, MAX_LABEL = 1e-3, 40
"""Lower end of the axis, in standard deviations, and characters of a name in the legend."""

PANELS: tuple[tuple[str, Callable[[LayerFigures], float | None]], ...] = (
    ("mean of the last batches − running", lambda figures: figures.batch),
    ("validation in eval mode − running", lambda figures: figures.inference),
    ("each of the last batches − their mean", lambda figures: figures.noise),
)


def draw_statistics(records: Sequence[EpochStatistics], best_epoch: int, path: Path, title: str) -> None:
    """Plot the three figures of every layer against the epoch, with the best epoch marked, as a PNG file.

    Args:
        records: at least one, in order.
        best_epoch: from 1; the worst layers are those of this epoch, or of the last one if it has no record.
        path: of the file.
        title: above the plot.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a display
    from matplotlib.figure import Figure

    at_best = next((record for record in records if record.epoch == best_epoch), records[-1]).layers
    worst = sorted(at_best, key=lambda name: at_best[name].difference, reverse=True)[:NAMED_LAYERS]
    figure = Figure(figsize=(14, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (label, figure_of) in zip(panels, PANELS, strict=True):
        for name in [*(set(at_best) - set(worst)), *reversed(worst)]:  # the worst above the others
            _draw(axes, records, name, figure_of, worst)
        axes.set_title(label, fontsize="medium")
        axes.set_xlabel("epoch")
        axes.axvline(best_epoch, color="0.5", linestyle=":")
    for axes in panels[:2]:
        axes.axhline(MAX_DIFFERENCE, color="0.5", linestyle="--")  # above it, training ends with a warning
    panels[0].set_ylabel("difference (standard deviations)")
    panels[0].set_yscale("log")
    panels[0].set_ylim(bottom=MIN_DIFFERENCE)
    handles = {line.get_label(): line for line in panels[0].get_lines()}
    figure.legend(
        [handles[_short(name)] for name in worst], [_short(name) for name in worst], loc="outside right upper"
    )
    figure.suptitle(f"Batch statistics against running statistics: {title}", fontsize="large")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())


def _draw(
    axes: Axes,
    records: Sequence[EpochStatistics],
    name: str,
    figure_of: Callable[[LayerFigures], float | None],
    worst: Sequence[str],
) -> None:
    from matplotlib.ticker import MaxNLocator

    found = [(record.epoch, figure_of(record.layers[name])) for record in records if name in record.layers]
    values = [float("nan") if value is None else max(value, MIN_DIFFERENCE) for _, value in found]
    colour = COLOURS[worst.index(name)] if name in worst else "0.8"
    marker = "o" if len(found) == 1 else None
    label = _short(name) if name in worst else None
    axes.plot([epoch for epoch, _ in found], values, color=colour, marker=marker, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _short(name: str) -> str:
    return name if len(name) <= MAX_LABEL else f"…{name[-MAX_LABEL + 1 :]}"

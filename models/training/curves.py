"""Plot of a training run: loss and the task's metric by epoch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from normfold.contract.atomic_write import write_atomically
from normfold.models.training.metrics import EpochMetrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES_NAME = "curves.png"

TRAIN_COLOUR, VALIDATION_COLOUR = "#4477aa", "#cc6677"  # distinct for colour-blind readers too


def draw_curves(records: Sequence[EpochMetrics], best_epoch: int, metric: str, path: Path, title: str) -> None:
    """Plot loss and metric of both splits against the epoch, with the best epoch marked, as a PNG file.

    Training metrics are means over the steps of an epoch, in train mode; validation metrics are those after the epoch,
    in eval mode.

    Args:
        records: metrics of every epoch.
        best_epoch: from 1.
        metric: name of the metric that decides on the best epoch.
        path: of the file.
        title: above the plot.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a display
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    epochs = [record.epoch for record in records]
    best = next(record for record in records if record.epoch == best_epoch)
    _draw(left, epochs, [r.train_loss for r in records], [r.validation_loss for r in records])
    left.set_ylabel("cross entropy (nats)")
    left.set_ylim(bottom=0)
    left.axvline(best.epoch, color="0.5", linestyle=":")
    _draw(right, epochs, [r.train[metric] for r in records], [r.validation[metric] for r in records])
    right.set_ylabel(metric)
    label = f"best epoch: {best.epoch} (validation {metric} {best.validation[metric]:.4f})"
    right.axvline(best.epoch, color="0.5", linestyle=":", label=label)
    right.legend(loc="lower right")
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())


def _draw(axes: Axes, epochs: list[int], train: list[float], validation: list[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    marker = "o" if len(epochs) == 1 else None
    axes.plot(epochs, train, color=TRAIN_COLOUR, marker=marker, label="training, in train mode")
    axes.plot(epochs, validation, color=VALIDATION_COLOUR, marker=marker, label="validation, in eval mode")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)

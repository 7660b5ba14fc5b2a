"""Plots of a training run: loss and the task's metric by epoch, and classes by true and predicted class."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from normfold.contract.arrays import Array
from normfold.contract.atomic_write import write_atomically
from normfold.contract.outputs.metric_names import METRIC_NAMES
from normfold.models.tasks.task import Task
from normfold.models.training.metrics import EpochMetrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES_NAME = "curves.png"
CONFUSION_NAME = "confusion.png"

MAX_CLASSES = 40
"""Largest number of classes whose counts are plotted as numbers, too."""

TRAIN_COLOUR, VALIDATION_COLOUR = "#4477aa", "#cc6677"  # distinct for colour-blind readers too


def draw_curves(records: Sequence[EpochMetrics], best_epoch: int, task: Task, path: Path, title: str) -> None:
    """Plot loss and metric of both splits against the epoch, with the best epoch marked, as a PNG file.

    Training metrics are means over the steps of an epoch, in train mode; validation metrics are those after the epoch,
    in eval mode.

    Args:
        records: metrics of every epoch.
        best_epoch: from 1.
        task: names the loss, and the metric that decides on the best epoch.
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
    left.set_ylabel(task.loss_name)
    if min(*(r.train_loss for r in records), *(r.validation_loss for r in records)) >= 0:
        left.set_ylim(bottom=0)
    left.axvline(best.epoch, color="0.5", linestyle=":")
    metric, shown = task.metric, METRIC_NAMES.get(task.metric, task.metric)
    train = [r.train[metric] for r in records] if all(metric in r.train for r in records) else None
    _draw(right, epochs, train, [r.validation[metric] for r in records])
    right.set_ylabel(shown)
    label = f"best epoch: {best.epoch} (validation {shown} {best.validation[metric]:.4f})"
    right.axvline(best.epoch, color="0.5", linestyle=":", label=label)
    right.legend(loc="lower right")
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())


def draw_confusion(counts: Array, labels: Sequence[str], path: Path, title: str) -> None:
    """Plot a confusion matrix as a PNG file: the share of each true class that was predicted as each class.

    Args:
        counts: rows or pixels by true and predicted class, (classes, classes).
        labels: names of the classes.
        path: of the file.
        title: above the plot.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(4 + 0.35 * len(labels), 16)
    figure = Figure(figsize=(side, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if len(labels) <= MAX_CLASSES:
        short = [label if len(label) <= 20 else f"{label[:19]}…" for label in labels]
        axes.set_xticks(range(len(labels)), short, rotation=90, parse_math=False)
        axes.set_yticks(range(len(labels)), short, parse_math=False)
        for row, column in np.argwhere(counts > 0).tolist():
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(int(counts[row, column])), ha="center", va="center", color=colour, fontsize=7)
    figure.suptitle(f"{title}: test split", parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())


def _draw(axes: Axes, epochs: list[int], train: list[float] | None, validation: list[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    marker = "o" if len(epochs) == 1 else None
    if train is not None:
        axes.plot(epochs, train, color=TRAIN_COLOUR, marker=marker, label="training, in train mode")
    axes.plot(epochs, validation, color=VALIDATION_COLOUR, marker=marker, label="validation, in eval mode")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)

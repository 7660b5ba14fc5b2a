"""Recalibrated running statistics: how far they moved, as a table, and what that does to the accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from normfold.contract.outputs.metric_names import METRIC_NAMES

if TYPE_CHECKING:
    from normfold.contract.source_card import RunningStatistics


def movement_table(moved: RunningStatistics) -> Table:
    """Return one row for each BatchNorm: by how much its mean and its variance changed in the channel that moved most.

    The mean is in old standard deviations; the variance is new over old, the smallest and the largest of the channels.
    """
    table = Table("running statistics", box=None, pad_edge=False, header_style="bold")
    for name in ("mean moved by", "variance changed by"):
        table.add_column(name, justify="right")
    for layer in moved.layers:
        mean_change = "–" if layer.mean_shift is None else f"{layer.mean_shift:.2g} std"
        ratio = "–" if layer.variance_ratio is None else "× {:.2f} … {:.2f}".format(*layer.variance_ratio)
        table.add_row(Text(layer.layer, overflow="fold"), mean_change, ratio)
    return table


def accuracy_sentence(moved: RunningStatistics) -> str:
    """Return what the new statistics do to the accuracy, and whether they were taken."""
    metric = METRIC_NAMES.get(moved.metric, moved.metric)
    parts = [
        f"{split} {metric} {before:.4f} before, {moved.accuracy_after[split]:.4f} after"
        for split, before in moved.accuracy_before.items()
    ]
    done = "Recalibrated" if moved.taken else "Recalibrated, but not applied,"
    return f"{done} over {moved.samples} training rows: {'; '.join(parts)}."

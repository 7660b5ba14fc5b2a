"""Plot of a learning rate range test."""

from __future__ import annotations

import io
from pathlib import Path

from normfold.contract.atomic_write import write_atomically
from normfold.models.training.curves import TRAIN_COLOUR, VALIDATION_COLOUR
from normfold.models.training.learning_rate.finder import RangeTest

PICTURE_NAME = "learning-rate.png"


def draw_range_test(result: RangeTest, path: Path, title: str) -> None:
    """Plot the loss against the learning rate, with the suggestion marked, as a PNG file.

    Args:
        result: of the test.
        path: of the file; its folder is created if it does not exist.
        title: above the plot.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a display
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(result.rates, result.losses, color="0.75", label="loss of each step")
    axes.plot(result.rates, result.smooth, color=TRAIN_COLOUR, label="smoothed")
    if result.suggestion is not None:
        label = f"falls fastest: {result.suggestion:g}"
        axes.axvline(result.suggestion, color=VALIDATION_COLOUR, linestyle=":", label=label)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend()
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())

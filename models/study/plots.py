"""Plots of the study: panels of lines or bars; each value is a mean over seeds with its standard error."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#4477aa", "#cc6677", "#ddaa33", "#228833", "#aa3377", "#66ccee")
"""Paul Tol's palette, distinct for colour-blind readers too."""

DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = "osD^vP"
MAX_ERROR_BARS = 16
"""Maximum number of points of a line with error bars; with more, a band is drawn."""

MAX_LABELLED_TICKS = 10
"""Maximum number of points on a logarithmic axis that are all labelled; with more, powers of ten are."""

ERRORS = "Error bars and bands: mean ± standard error over {} seeds."


@dataclass(frozen=True)
class Series:
    """Values of one variant, (seeds, points); a single row has no error bars."""

    label: str
    values: npt.ArrayLike


@dataclass(frozen=True)
class Lines:
    """A panel of lines against x."""

    title: str
    x_label: str
    y_label: str
    x: Sequence[float]
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False
    limits: tuple[float, float] | None = None
    """Range of y, where panels are to be compared."""
    mark: float | None = None
    """The y of a dotted line."""


@dataclass(frozen=True)
class Bars:
    """A panel of horizontal bars: a group for each label, with a bar for each series."""

    title: str
    x_label: str
    groups: Sequence[str]
    series: Sequence[Series]
    limits: tuple[float, float] | None = None
    """Range of the axis, if it does not begin at 0."""
    mark: float | None = None
    """The value of a dotted line."""


def draw(panels: Sequence[Lines | Bars]) -> bytes:
    """Draw panels side by side, four in two rows, and return the PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a display
    from matplotlib.figure import Figure

    height = max([3.8, *(0.9 + 0.42 * len(p.groups) * len(p.series) for p in panels if isinstance(p, Bars))])
    lines = 2 if len(panels) == 4 else 1
    figure = Figure(figsize=(11, lines * min(height, 6.0)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, len(panels) // lines, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=True):
        if isinstance(panel, Lines):
            _lines(axes, panel)
        else:
            _bars(axes, panel)
        axes.set_title(panel.title, fontsize=11, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _lines(axes: Axes, panel: Lines) -> None:
    for index, series in enumerate(panel.series):
        mean, error = _mean_and_error(series)
        style: dict[str, Any] = {"color": COLOURS[index % 6], "linestyle": DASHES[index % 6], "label": series.label}
        if len(panel.x) <= MAX_ERROR_BARS:
            axes.errorbar(panel.x, mean, error, marker=MARKERS[index % 6], markersize=4, capsize=3, **style)
        else:
            axes.plot(panel.x, mean, **style)
            axes.fill_between(panel.x, mean - error, mean + error, color=style["color"], alpha=0.2, linewidth=0)
    if panel.log_x:
        axes.set_xscale("log")
        if len(panel.x) <= MAX_LABELLED_TICKS:
            axes.set_xticks(panel.x, [f"{x:,}" for x in panel.x])
            axes.minorticks_off()
    if panel.log_y:
        axes.set_yscale("log")
    if panel.mark is not None:
        axes.axhline(panel.mark, color="0.5", linestyle=":")
    if panel.limits is not None:
        low, high = panel.limits
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, framealpha=0.8)


def _bars(axes: Axes, panel: Bars) -> None:
    from matplotlib.ticker import MaxNLocator

    thickness = 0.8 / max(len(panel.series), 2)
    for index, series in enumerate(panel.series):
        mean, error = _mean_and_error(series)
        places = np.arange(len(panel.groups)) + (index - (len(panel.series) - 1) / 2) * thickness
        axes.barh(
            places, mean, 0.9 * thickness, xerr=error, color=COLOURS[index % 6], ecolor="0.25", capsize=3,
            label=series.label,
        )  # fmt: skip
    if panel.mark is not None:
        axes.axvline(panel.mark, color="0.5", linestyle=":")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_yticks(np.arange(len(panel.groups)), panel.groups)
    axes.invert_yaxis()
    if panel.limits is not None:
        axes.set_xlim(panel.limits)
    axes.set_xlabel(panel.x_label)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    if len(panel.series) > 1:
        axes.legend(fontsize=9, framealpha=0.8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)


def _mean_and_error(series: Series) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return means over the seeds and their standard errors; 0 for a single seed."""
    values = np.atleast_2d(np.asarray(series.values, np.float64))
    if len(values) == 1:
        return values[0], np.zeros(values.shape[1])
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))

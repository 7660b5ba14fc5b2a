"""Plot of a service's latency over its load."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from normfold._bench.result import BenchResult, LoadResult

_QUANTILES = {"p50": "#4477aa", "p90": "#ccbb44", "p99": "#cc6677"}  # distinct for colour-blind readers too


def draw_latency(result: BenchResult, suffix: str) -> bytes:
    """Plot p50, p90 and p99 against right answers a second, closed and open loops apart.

    Args:
        result: with its levels; those without a right answer are left out.
        suffix: png or svg.

    Returns:
        The bytes of the file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a display
    from matplotlib.figure import Figure

    measured = [level for level in result.levels if level.answered]
    closed = [level for level in measured if level.target_rate is None]
    opened = [level for level in measured if level.target_rate is not None]
    titled = (("closed loop, by connections", closed), ("open loop, by requests due a second", opened))
    loops = [(title, levels) for title, levels in titled if levels]
    figure = Figure(figsize=(5.5 * max(1, len(loops)), 4), layout="constrained")
    FigureCanvasAgg(figure)
    plots = figure.subplots(1, max(1, len(loops)), squeeze=False, sharey=True)[0]
    for axes, (title, levels) in zip(plots, loops, strict=False):
        _draw(axes, levels)
        axes.set_title(title)
    plots[0].set_ylabel("latency (ms)")
    figure.suptitle(
        f"{result.model}, {result.protocol} {result.format}, {result.rows} row{'s' * (result.rows != 1)} a request"
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, dpi=120)
    return buffer.getvalue()


def _draw(axes: Axes, levels: Sequence[LoadResult]) -> None:
    """Draw the levels of one kind of loop; each is labelled with its connections, or the rate that was due."""
    ordered = sorted(levels, key=lambda level: level.rate)
    rates = [level.rate for level in ordered]
    for name, colour in _QUANTILES.items():
        axes.plot(rates, [getattr(level, f"{name}_ms") for level in ordered], color=colour, marker="o", label=name)
    for level in ordered:
        load = f"{level.connections if level.target_rate is None else level.target_rate:g}"
        axes.annotate(load, (level.rate, level.p99_ms or 0), xytext=(0, 6), textcoords="offset points", ha="center")
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.margins(y=0.15)
    axes.set_xlabel("right answers a second")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left")

"""A small histogram as SVG: the values of a figure in the channels of a layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from normfold.display.pages.markup import Html, element, empty

_WIDTH, _HEIGHT, _LABELS = 220, 44, 14
_BINS = 21
"""An odd number, so that the middle of an axis is the middle of a bar."""


@dataclass(frozen=True)
class Axis:
    """The axis that all histograms of a column share, so that they can be compared."""

    low: float
    high: float
    marks: tuple[tuple[float, str], ...]
    """Places on the axis and what is written below them."""


def histogram(values: npt.NDArray[np.float64], axis: Axis, says: str) -> Html:
    """Draw how many channels have which value; what lies beyond the axis stands in its first or last bar.

    Args:
        values: (C,); those that are not finite are left out.
        axis: of the whole column.
        says: the same in words.
    """
    inside = np.clip(values[np.isfinite(values)], axis.low, axis.high)
    counts, _ = np.histogram(inside, bins=_BINS, range=(axis.low, axis.high))
    step, tallest = _WIDTH / _BINS, max(int(counts.max()), 1)
    bars = [
        empty("rect", class_="count", x=f"{index * step + 0.5:.1f}", y=f"{_HEIGHT - height:.1f}",
              width=f"{step - 1:.1f}", height=f"{height:.1f}")
        for index, count in enumerate(counts)
        if (height := _HEIGHT * int(count) / tallest)
    ]  # fmt: skip
    marks = []
    for place, label in axis.marks:
        x = _WIDTH * (place - axis.low) / (axis.high - axis.low)
        anchor = "start" if x < 10 else "end" if x > _WIDTH - 10 else "middle"
        marks.append(empty("path", class_="tick", d=f"M{x:.1f} {_HEIGHT}v3"))
        marks.append(
            element("text", label, x=f"{x:.1f}", y=_HEIGHT + _LABELS, style=f"text-anchor:{anchor}", aria_hidden="true")
        )
    return element(
        "svg",
        element("title", says),
        empty("path", class_="tick", d=f"M0 {_HEIGHT}h{_WIDTH}"),
        *bars,
        *marks,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT + _LABELS + 4}",
        width=_WIDTH,
        height=_HEIGHT + _LABELS + 4,
        role="img",
        class_="histogram",
    )

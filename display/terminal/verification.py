"""Verifications and timings as tables and sentences for a terminal, and as records for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from normfold.display.terminal.width import middle_shortened

if TYPE_CHECKING:
    from normfold.export.verify.timing import Timing
    from normfold.export.verify.tolerance import Difference
    from normfold.export.verify.verify import Verification

_MAX_NAME_WIDTH = 18
"""Columns of an output's name: with the numbers beside it, 80 in all."""


def verification_table(verification: Verification) -> RenderableType:
    """Return one row for each output: its error beside the network's own noise, and what is allowed for them.

    A channel that differs, where the output as a whole does not, has a row of its own below its output: the axis, and
    the index there. A sentence below the table names each output that was constant.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("output")
    for name in ("error", "noise", "error / noise", "allowed", "floor", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for name, found in verification.outputs.items():
        channel = found.channel
        is_in_channel = found.is_allowed and channel is not None and not channel.is_allowed
        table.add_row(Text(middle_shortened(name, _MAX_NAME_WIDTH)), *_cells(found, "" if is_in_channel else None))
        if is_in_channel and channel is not None:
            mean = "mean, " if channel.is_mean else ""
            table.add_row(f"  {mean}axis {channel.axis}: {channel.index}", *_cells(channel))
    return Group(table, *(Text(sentence) for sentence in verification.notes))


def _cells(found: Difference, verdict: str | None = None) -> list[str | Text]:
    ratio = f"{found.ratio:.1f}" if found.noise else "–"
    numbers: list[str | Text] = [f"{found.error:.2g}", f"{found.noise:.2g}", ratio, f"{found.allowed:.2g}"]
    own = Text("equal", style="green") if found.is_allowed else Text("different", style="red")
    return [*numbers, f"{found.floor:.2g}", own if verdict is None else verdict]


def verification_record(verification: Verification) -> dict[str, Any]:
    """Return plain types for JSON; an infinite error or ratio is null."""
    return {
        "passes": verification.passes,
        "batchable": verification.batchable,
        "engine": verification.engine.value,
        "outputs": {
            name: {
                **_numbers(found),
                "passes": found.passes,
                "constant": found.is_constant,
                "channel": None
                if found.channel is None
                else {
                    "axis": found.channel.axis,
                    "index": found.channel.index,
                    "mean": found.channel.is_mean,
                    **_numbers(found.channel),
                    "passes": found.channel.is_allowed,
                },
            }
            for name, found in verification.outputs.items()
        },
        "notes": verification.notes,
    }


def _numbers(found: Difference) -> dict[str, float | None]:
    names = ("error", "noise", "ratio", "allowed", "floor")
    return {name: _finite(getattr(found, name)) for name in names}


def _finite(number: float) -> float | None:
    return number if abs(number) != float("inf") else None


def timing_sentence(timing: Timing) -> str:
    """Return how long a run takes before and after the fold."""
    return (
        f"A run takes {timing.before_ms:.3g} ms before and {timing.after_ms:.3g} ms after: medians of {timing.runs} "
        "runs each, in turns, on one thread, with ONNX Runtime's optimisations on."
    )

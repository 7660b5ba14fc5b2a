"""What folds and verifications look like to a person."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from export.report import FoldReport
    from export.verify import Verification

_COLOURS = {"kept": "yellow"}


def fold_table(report: FoldReport) -> Table:
    """Return one row for each BatchNormalization: what became of it, and where it went or why it stays."""
    table = Table("BatchNormalization", "outcome", "into, or why not", box=None, pad_edge=False, header_style="bold")
    for entry in report.entries:
        outcome = Text(entry.outcome.value, style=_COLOURS.get(entry.outcome.value, "green"))
        table.add_row(Text(entry.node, overflow="fold"), outcome, Text(entry.reason or ", ".join(entry.into)))
    return table


def fold_sentence(report: FoldReport, verb: str = "folded") -> str:
    """Return the counts in one sentence: so many `verb`."""
    total, left = report.batchnorm_before, report.batchnorm_after
    if not total:
        return "There is no BatchNormalization in this model."
    counts = Counter(entry.outcome.value for entry in report.entries)
    parts = ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
    return f"{total - left} of {total} BatchNormalization nodes {verb} ({parts})."


def verification_table(verification: Verification) -> Table:
    """Return one row for each output: its error beside the network's own noise."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("output")
    for name in ("error", "noise", "error / noise", "allowed", ""):
        table.add_column(name, justify="right")
    for name, found in verification.outputs.items():
        verdict = Text("equal", style="green") if found.passes else Text("different", style="red")
        ratio = f"{found.ratio:.1f}" if found.noise else "–"
        table.add_row(Text(name), f"{found.error:.2g}", f"{found.noise:.2g}", ratio, f"{found.allowed:.2g}", verdict)
    return table


def verification_record(verification: Verification) -> dict[str, Any]:
    """Return plain types for JSON; an infinite error or ratio is null."""
    return {
        "passes": verification.passes,
        "batchable": verification.batchable,
        "engine": verification.engine.value,
        "outputs": {
            name: {
                "error": _finite(found.error),
                "noise": _finite(found.noise),
                "ratio": _finite(found.ratio),
                "allowed": _finite(found.allowed),
                "passes": found.passes,
            }
            for name, found in verification.outputs.items()
        },
    }


def _finite(number: float) -> float | None:
    return number if abs(number) != float("inf") else None

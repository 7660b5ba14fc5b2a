"""Folds, verifications and drift monitors as tables and sentences for a terminal, and as records for JSON."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from normfold.contract.drift.monitor import Monitor
    from normfold.export.fold.report import BatchNormOutcome, FoldReport
    from normfold.export.graph.pixels import PixelInput
    from normfold.export.verify.verify import Verification

_COLOURS = {"kept": "yellow", "removed": "bright_black"}


def fold_sentence(report: FoldReport, verb: str = "folded") -> str:
    """Return the counts in one sentence: so many `verb`."""
    total, left = report.batchnorm_before, report.batchnorm_after
    if not total:
        return "There is no BatchNormalization in this model."
    counts = Counter(entry.outcome.value for entry in report.entries)
    parts = ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
    return f"{total - left} of {total} BatchNormalization nodes {verb} ({parts})."


def pixel_sentence(found: PixelInput) -> str:
    """Return what a model that takes pixels now reads, and what its standardisation left in the graph."""
    left = f" all but {' and '.join(found.left)}" if found.left else ""
    return f"Input {found.name!r} takes 8-bit pixels, 0 to 255; their standardisation is folded{left}."


def monitor_sentence(monitor: Monitor | None, rows: str = "calibration rows") -> str:
    """Return how the service will monitor a bundle's inputs for drift; its thresholds come from `rows`."""
    from normfold.export.bundle.calibrate import MIN_ROWS

    if monitor is None:
        return "Its inputs are not monitored for drift."
    count = len(monitor.layers)
    layers = f"{count} layer{'s' if count > 1 else ''}"
    if monitor.calibration_rows:
        return f"Inputs are monitored for drift at {layers}; thresholds come from {monitor.calibration_rows} {rows}."
    return (
        f"Inputs are monitored for drift at {layers}, but without thresholds, which need at least {MIN_ROWS} {rows}: "
        "scores are shown, `drifted` stays null, and the alert cannot fire."
    )


def monitor_record(monitor: Monitor | None, rows: str = "calibration rows") -> dict[str, Any] | None:
    """Return the same for JSON."""
    if monitor is None:
        return None
    return {
        "window_rows": monitor.window_rows,
        "calibration_rows": monitor.calibration_rows,
        "layers": [{"node": layer.node, "threshold": layer.threshold} for layer in monitor.layers],
        "sentence": monitor_sentence(monitor, rows),
    }


def outcome_table(report: FoldReport) -> Table:
    """Return the number of each outcome, with its description, and of each reason for which one was kept."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column()
    for outcome, number in Counter(entry.outcome for entry in report.entries).most_common():
        name = Text(outcome.value, style=_COLOURS.get(outcome.value, "green"))
        table.add_row(str(number), Text.assemble(name, f": {outcome.description}"))
        if outcome.value == "kept":
            for code, entries in kept_by_reason(report).items():
                table.add_row("", Text(f"{len(entries)} {code}"))
    if report.affines:
        table.add_row(str(report.affines), Text("other affines folded: Mul, Add, Sub or Div by a constant"))
    return table


def kept_by_reason(report: FoldReport) -> dict[str, list[BatchNormOutcome]]:
    """Return the entries that were kept, by reason code, the most frequent first."""
    found: dict[str, list[BatchNormOutcome]] = {}
    for entry in report.entries:
        if entry.outcome.value == "kept":
            found.setdefault(entry.reason_code or "unknown", []).append(entry)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def fold_table(report: FoldReport) -> Table:
    """Return one row for each BatchNormalization: its outcome, and the nodes that absorbed it or why it was kept."""
    table = Table("BatchNormalization", "outcome", "into, or why not", box=None, pad_edge=False, header_style="bold")
    for entry in report.entries:
        outcome = Text(entry.outcome.value, style=_COLOURS.get(entry.outcome.value, "green"), no_wrap=True)
        table.add_row(
            Text(entry.node, overflow="fold"), outcome, Text(entry.reason or _absorbers(entry), overflow="fold")
        )
    return table


def _absorbers(entry: BatchNormOutcome) -> str:
    """Return the nodes that absorbed a BatchNormalization, and the number of nodes between; `--json` names them."""
    between = sum(step not in entry.into for step in entry.path)
    by_way = f", through {between} node{'s' * (between > 1)}" if between else ""
    return ", ".join(entry.into) + by_way


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

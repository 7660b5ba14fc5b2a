"""Folds and drift monitors as tables and sentences for a terminal, and as records for JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from normfold.display.terminal.width import middle_shortened, words_shortened

if TYPE_CHECKING:
    from normfold.contract.drift.monitor import Monitor
    from normfold.export.fold.report import BatchNormOutcome, FoldReport
    from normfold.export.graph.pixels import PixelInput

_HEADS = ("BatchNormalization", "outcome", "into, or why not")
_GAP = 2
"""Columns between two columns of a table."""
_COLOURS = {"kept": "yellow", "removed": "bright_black"}


def fold_sentence(report: FoldReport, verb: str = "folded") -> str:
    """Return the counts in one sentence: so many `verb`."""
    total, left, made = report.batchnorm_before, report.batchnorm_after, report.batchnorm_made
    which = "nodes replace a Mul and an Add each" if made > 1 else "replaces a Mul and an Add"
    joined = f" {made} BatchNormalization {which}, which no layer takes." if made else ""
    if not total:
        return (
            f"This model had no BatchNormalization.{joined}"
            if made
            else "There is no BatchNormalization in this model."
        )
    counts = Counter(entry.outcome.value for entry in report.entries)
    parts = ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
    return f"{total - left} of {total} BatchNormalization nodes {verb} ({parts}).{joined}"


def gain_sentence(report: FoldReport) -> str | None:
    """Return what the fold gained, if anything: nodes, and multiplications where all sizes but the batch are fixed."""
    before, after = report.size_before, report.size_after
    if before is None or after is None or before == after:
        return None
    sentence = f"Nodes: {before.nodes:,} before, {after.nodes:,} after."
    if before.multiplications is None or after.multiplications is None:
        return sentence
    return f"{sentence} Multiplications for a row: {before.multiplications:,} before, {after.multiplications:,} after."


def size_record(report: FoldReport) -> dict[str, Any]:
    """Return the same for JSON."""
    sizes = {"before": report.size_before, "after": report.size_after}
    return {when: None if size is None else size.to_dict() for when, size in sizes.items()}


def pixel_sentence(found: PixelInput) -> str:
    """Return what a model that takes pixels now reads, and what its standardisation left in the graph."""
    left = f" all but {' and '.join(found.left)}" if found.left else ""
    return f"Input {found.name!r} takes 8-bit pixels, 0 to 255; their standardisation is folded{left}."


def monitor_sentence(monitor: Monitor | None, rows: str, remedy: str = "") -> str:
    """Return how the service will monitor a bundle's inputs for drift.

    Args:
        monitor: what it monitors; None if nothing.
        rows: that thresholds come from, in words.
        remedy: a sentence: what gives thresholds where there are none.
    """
    from normfold.export.bundle.calibrate import MIN_ROWS

    if monitor is None:
        return "Its inputs are not monitored for drift."
    count = len(monitor.layers)
    layers = f"{count} layer{'s' if count > 1 else ''}"
    if monitor.calibration_rows:
        return f"Inputs are monitored for drift at {layers}; thresholds come from {monitor.calibration_rows} {rows}."
    sentence = (
        f"Inputs are monitored for drift at {layers}, but without thresholds, which need at least {MIN_ROWS} {rows}: "
        "scores are shown, `drifted` stays null, and the alert cannot fire."
    )
    return f"{sentence} {remedy}".rstrip()


def monitor_record(monitor: Monitor | None, rows: str, remedy: str = "") -> dict[str, Any] | None:
    """Return the same for JSON."""
    if monitor is None:
        return None
    return {
        "window_rows": monitor.window_rows,
        "calibration_rows": monitor.calibration_rows,
        "layers": [{"node": layer.node, "threshold": layer.threshold} for layer in monitor.layers],
        "sentence": monitor_sentence(monitor, rows, remedy),
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


def fold_table(report: FoldReport, width: int, every_node: bool = False, kept_only: bool = False) -> Table:
    """Return the outcome of each BatchNormalization, and the nodes that absorbed it or why it was kept.

    Args:
        report: of the fold.
        width: columns of the terminal.
        every_node: one row for each node; without it, nodes that are kept for the same reason share a row.
        kept_only: no rows for nodes that were folded.
    """
    groups = _groups(report, every_node, kept_only)
    heads = [group[0].node if len(group) == 1 else f"{len(group)} ×" for group in groups]
    modules = [group[0].module or "" if len(group) == 1 else "" for group in groups]
    outcomes = max(map(len, (_HEADS[1], *(group[0].outcome.value for group in groups))))
    natural = max(map(len, (_HEADS[0], *heads, *modules)))
    first = min(natural, max((width - outcomes) * 2 // 5, len(_HEADS[0])))
    rest = max(width - outcomes - first - 2 * _GAP, len(_HEADS[2]))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head, columns in zip(_HEADS, (first, outcomes, rest), strict=True):
        table.add_column(head, width=columns)
    for group, head, module in zip(groups, heads, modules, strict=True):
        name = Text(middle_shortened(head, first))
        if module and module != head:
            name.append(f"\n{middle_shortened(module, first)}", style="bright_black")
        outcome = group[0].outcome.value
        text = words_shortened(_explanation(group), rest)
        table.add_row(name, Text(outcome, style=_COLOURS.get(outcome, "green"), no_wrap=True), Text(text))
    return table


def _groups(report: FoldReport, every_node: bool, kept_only: bool) -> list[list[BatchNormOutcome]]:
    """Return the entries, those together that are kept for the same reason, each group at the place of its first."""
    groups: dict[object, list[BatchNormOutcome]] = {}
    for number, entry in enumerate(report.entries):
        if kept_only and entry.outcome.value != "kept":
            continue
        is_alone = every_node or not entry.reason
        groups.setdefault(number if is_alone else (entry.outcome, _without_names(entry.reason or "")), []).append(entry)
    return list(groups.values())


def _explanation(group: Sequence[BatchNormOutcome]) -> str:
    """Return what absorbed a BatchNormalization, or why it was kept; of several without the names of nodes."""
    first = group[0]
    if not first.reason:
        return _absorbers(first)
    return first.reason if len(group) == 1 else f"{_without_names(first.reason)} First: {first.module or first.node}"


def _without_names(reason: str) -> str:
    """Return a reason without the names that it quotes."""
    return re.sub(r""" ('[^']*'|"[^"]*")""", "", reason)


def _absorbers(entry: BatchNormOutcome) -> str:
    """Return the nodes that absorbed a BatchNormalization, and the number of nodes between; `--json` names them."""
    if entry.outcome.value == "computed":
        return "its input is a constant"
    between = sum(step not in entry.into for step in entry.path)
    by_way = f", through {between} node{'s' * (between > 1)}" if between else ""
    modules = entry.into_modules or (None,) * len(entry.into)
    nodes = [f"{node} ({module})" if module else node for node, module in zip(entry.into, modules, strict=True)]
    return ", ".join(nodes) + by_way

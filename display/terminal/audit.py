"""Audits as tables and sentences for a terminal, and as records for JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from normfold.contract.arrays import Float64Array
from normfold.contract.audit.findings import Audit, BatchNormLayer, Severity
from normfold.display.terminal.width import printable

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}


def findings_table(audit: Audit) -> Table:
    """Return one row for each finding."""
    table = Table("severity", "layer", "found", "what to do", box=None, pad_edge=False, header_style="bold")
    for finding in audit.findings:
        table.add_row(
            Text(str(finding.severity), style=_COLOURS[finding.severity], no_wrap=True),
            Text(printable(finding.layer or "the network"), overflow="fold"),
            Text(f"{finding.code}: {finding.measurement}", overflow="fold"),
            Text(finding.advice, overflow="fold"),
        )
    return table


def verdict(audit: Audit) -> str:
    """Return the counts in one sentence."""
    if not audit.layers and not audit.findings:
        return "Nothing to audit: the network has no BatchNorm layer with running statistics."
    layers = f"{len(audit.layers)} BatchNorm layer{'s' * (len(audit.layers) != 1)}"
    if not audit.findings:
        return f"{layers}: nothing was found."
    return f"{layers}: {counted(audit)}."


def counted(audit: Audit) -> str:
    """Return how many findings there are of each severity, the worst first."""
    counts = Counter(finding.severity for finding in audit.findings)
    plural = {severity: "" if severity is Severity.INFO else "s" for severity in Severity}
    return ", ".join(
        f"{counts[severity]} {severity}{plural[severity] * (counts[severity] > 1)}"
        for severity in reversed(Severity)
        if counts[severity]
    )


def audit_record(source: str, audit: Audit) -> dict[str, Any]:
    """Return plain types for JSON; of an array its smallest, median and largest finite value."""
    counts = Counter(finding.severity for finding in audit.findings)
    return {
        "source": source,
        "counts": {severity.value: counts[severity] for severity in Severity},
        "findings": [finding.to_dict() for finding in audit.findings],
        "layers": [_layer(layer, audit) for layer in audit.layers],
        "notes": list(audit.notes),
    }


def _layer(layer: BatchNormLayer, audit: Audit) -> dict[str, Any]:
    drift = audit.differences.get(layer.name)
    return {
        "layer": layer.name,
        "channels": len(layer.scale),
        "epsilon": layer.epsilon,
        "gain": _summary(np.abs(layer.gain)),
        "mean_difference": None if drift is None else _summary(drift.mean_difference),
        "variance_ratio": None if drift is None else _summary(drift.variance_ratio),
    }


def _summary(values: Float64Array) -> list[float] | None:
    finite = values[np.isfinite(values)]
    return [float(finite.min()), float(np.median(finite)), float(finite.max())] if finite.size else None

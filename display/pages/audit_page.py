"""The page of `normfold audit --html`: the findings, and histograms of gain and drift over each layer's channels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np

from normfold.contract.arrays import Float64Array
from normfold.contract.audit.findings import Audit, BatchNormLayer, Finding, Severity
from normfold.display.pages.document import document
from normfold.display.pages.histogram import Axis, histogram
from normfold.display.pages.markup import Html, element, join, name, row, shortened, table
from normfold.display.terminal.audit import counted

_DRIFT = Axis(-2.0, 2.0, ((-2.0, "−2"), (-1.0, "−1"), (0.0, "0"), (1.0, "1"), (2.0, "2")))
_RATIO = Axis(-3.0, 3.0, ((-3.0, "1/8"), (-1.0, "1/2"), (0.0, "1"), (1.0, "2"), (3.0, "8")))
"""In powers of two."""
_WIDEST_GAIN = (-6.0, 6.0)
"""Powers of ten, beyond which an axis does not reach."""


def audit_page(source: str, audit: Audit) -> str:
    """Return the whole page."""
    title = shortened(source, 80)
    return document(title, _sections(title, audit), "normfold audit --json")


def _sections(title: str, audit: Audit) -> Iterator[Html]:
    counts = Counter(finding.severity for finding in audit.findings)
    verdict = element("span", "Nothing was found.", class_="pass")
    if audit.findings:
        worst = max(audit.findings, key=lambda finding: list(Severity).index(finding.severity)).severity
        verdict = element("span", f"Found: {counted(audit)}.", class_=f"severity {worst}")
    yield element("header", element("h1", title), element("p", verdict, class_="verdict"))
    figures = [("BatchNorm layers", len(audit.layers)), *((str(each), counts[each]) for each in reversed(Severity))]
    items = [element("div", element("dt", label), element("dd", value)) for label, value in figures]
    yield element("dl", *items, class_="figures")
    for sentence in audit.notes:
        yield element("p", sentence, class_="warning")
    if audit.findings:
        yield _findings(audit.findings)
    if audit.layers:
        yield _layers(audit)


def _findings(findings: tuple[Finding, ...]) -> Html:
    rows = [
        row(
            element("span", str(finding.severity), class_=f"severity {finding.severity}"),
            "the network" if finding.layer is None else name(finding.layer),
            join([element("code", finding.code), " ", finding.measurement]),
            finding.advice,
        )
        for finding in findings
    ]
    found = table(
        "By severity, then in the order of the layers",
        ["severity", "layer", "what was found", "what to do"],
        rows,
        "findings",
    )
    return element(
        "section",
        element("h2", "Findings", id="findings"),
        element("div", found, class_="scroll", role="region", aria_labelledby="findings", tabindex=0),
    )


def _layers(audit: Audit) -> Html:
    axis = _gain_axis(audit.layers)
    rows = []
    for layer in audit.layers:
        drawn: list[Html | str] = [_gain(layer, axis)]
        if audit.differences:
            drift = audit.differences.get(layer.name)
            drawn += (
                ["not measured"] * 2 if drift is None else [_drift(drift.mean_difference), _ratio(drift.variance_ratio)]
            )
        rows.append(row(name(layer.name), len(layer.scale), *drawn, numbers=[1]))
    heads = ["BatchNorm", "channels#", "|gain|"]
    sentence = "Gain is |scale| / sqrt(running variance + epsilon), on a logarithmic axis."
    if audit.differences:
        heads += ["mean moved, in std", "variance, new / old"]
        sentence += (
            " Drift is the difference of the data’s mean and variance from the running ones. Values beyond the axis "
            "are counted in its last bar."
        )
    drawing = table("One histogram over the channels of each layer", heads, rows, "layers")
    return element(
        "section",
        element("h2", "Gain and drift" if audit.differences else "Gain", id="layers"),
        element("p", sentence),
        element("div", drawing, class_="scroll", role="region", aria_labelledby="layers", tabindex=0),
    )


def _gain_axis(layers: tuple[BatchNormLayer, ...]) -> Axis:
    """Return an axis of whole powers of ten that holds every layer's gains."""
    gains = np.concatenate([_powers(np.abs(layer.gain), 10) for layer in layers])
    finite = np.clip(gains[np.isfinite(gains)], *_WIDEST_GAIN)
    low = math.floor(finite.min()) if finite.size else 0
    high = max(math.ceil(finite.max()) if finite.size else 1, low + 1)
    return Axis(low, high, tuple((power, f"{10.0**power:g}") for power in range(low, high + 1)))


def _powers(values: Float64Array, base: int) -> Float64Array:
    """Return logarithms; that of 0 is minus infinity."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms: Float64Array = np.log(values) / np.log(base)
    return logarithms


def _gain(layer: BatchNormLayer, axis: Axis) -> Html:
    gain = np.abs(layer.gain)
    return histogram(_powers(gain, 10), axis, f"gain of {_summary(gain)}")


def _drift(drift: Float64Array) -> Html:
    return histogram(drift, _DRIFT, f"mean moved by {_summary(drift)} standard deviations")


def _ratio(ratio: Float64Array) -> Html:
    return histogram(_powers(ratio, 2), _RATIO, f"variance, new over old, of {_summary(ratio)}")


def _summary(values: Float64Array) -> str:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "no finite value"
    return f"{finite.min():.3g} to {finite.max():.3g}, in the median {np.median(finite):.3g}"

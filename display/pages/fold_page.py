"""The page of `normfold inspect --html`: what a fold would do to a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from normfold.display.pages.batchnorm_outcomes import batchnorm_table, class_of, descriptions, reason
from normfold.display.pages.document import document
from normfold.display.pages.drawing import draw, key
from normfold.display.pages.facts import Facts, ValueRow
from normfold.display.pages.markup import Html, bar, element, join, name, row, shortened, table
from normfold.display.pages.verification_section import precision_section, ratio, verification_section
from normfold.display.terminal.fold import fold_sentence, kept_by_reason

if TYPE_CHECKING:
    from normfold.contract.precision.record import Precision
    from normfold.export.verify.verify import Verification

_ALWAYS_COUNTED = ("Conv", "BatchNormalization", "Add", "Mul")


def fold_page(facts: Facts) -> str:
    """Return the whole page."""
    title = shortened(facts.name, 80)
    return document(title, _sections(facts, title), "normfold inspect --json")


def verification_page(title: str, verification: Verification) -> str:
    """Return a page of a verification alone."""
    return document(shortened(title, 80), [verification_section(verification)], "normfold verify --json")


def precision_page(title: str, precision: Precision) -> str:
    """Return a page of the proof of a lower precision alone."""
    return document(shortened(title, 80), [precision_section(precision)], "normfold quantize --json")


def _sections(facts: Facts, title: str) -> Iterator[Html]:
    yield element("header", element("h1", title), element("p", _verdict(facts), class_="verdict"))
    yield _figures(facts)
    for sentence in facts.report.warnings:
        yield element("p", element("strong", "Warning: "), sentence, class_="warning")
    if facts.report.entries:
        yield _outcomes(facts)
    if facts.marks:
        yield _map(facts)
    yield verification_section(facts.verification)
    if facts.precision is not None:
        yield precision_section(facts.precision)
    yield element("div", _operators(facts), _model(facts), class_="columns")
    if facts.report.entries:
        yield batchnorm_table(facts.report.entries)


def _verdict(facts: Facts) -> Html:
    sentence = fold_sentence(facts.report, "can be folded")
    if facts.verification is None:
        verdict = element("span", "Not verified: the folded model was not run.", class_="unverified")
    elif facts.verification.passes:
        verdict = element("span", "Verified: the folded model computes the same.", class_="pass")
    else:
        verdict = element("span", "The folded model does not compute the same.", class_="fail")
    return join([sentence, " ", verdict])


def _figures(facts: Facts) -> Html:
    """Return the few numbers that matter most."""
    report, before, after = facts.report, facts.before.total(), facts.after.total()
    figures = [
        (
            "BatchNormalization folded",
            f"{report.batchnorm_before - report.batchnorm_after} of {report.batchnorm_before}",
        ),
        ("kept, with a reason", f"{report.batchnorm_after}"),
        ("nodes", f"{before:,} → {after:,}"),
        ("other affines folded", f"{report.affines}"),
    ]
    if facts.verification is not None and facts.verification.outputs:
        worst = max(facts.verification.outputs.values(), key=lambda found: found.excess)
        if worst.noise:
            figures.append(("error / noise, worst output", ratio(worst)))
    sizes = [size for size in (report.size_before, report.size_after) if size is not None]
    numbers = [size.multiplications for size in sizes if size.multiplications is not None]
    if len(numbers) == 2:
        figures.append(("multiplications for a row", " → ".join(f"{number:,}" for number in numbers)))
    if facts.timing is not None:
        figures.append(("ms a run", f"{facts.timing.before_ms:.3g} → {facts.timing.after_ms:.3g}"))
    items = [element("div", element("dt", label), element("dd", value)) for label, value in figures]
    return element("dl", *items, class_="figures")


def _outcomes(facts: Facts) -> Html:
    """Return the bars: outcomes, and why the kept ones were kept."""
    from normfold.export.fold.report import Outcome

    report, total = facts.report, len(facts.report.entries)
    counts = Counter(entry.outcome for entry in report.entries)
    rows = [
        row(outcome.value, counts[outcome], bar(counts[outcome] / total, class_of(outcome)), numbers=[1])
        for outcome in Outcome
    ]
    parts = [table(f"Outcome of the {total} BatchNormalization nodes", ["outcome", "nodes#", "share"], rows, "bars")]
    if kept := kept_by_reason(report):
        reasons = []
        for code, entries in kept.items():
            example = element("span", "for example: ", reason(entries[0]), class_="example")
            share = join([bar(len(entries) / total, "kept"), example])
            reasons.append(row(element("code", code, title=descriptions(entries[0])), len(entries), share, numbers=[1]))
        parts.append(
            table(
                "Reasons why BatchNormalization nodes are kept",
                ["backwards/forwards", "nodes#", "share"],
                reasons,
                "bars",
            )
        )
    return element("section", element("h2", "Outcomes"), *parts)


def _map(facts: Facts) -> Html:
    from normfold.export.fold.report import Outcome

    present = {entry.outcome for entry in facts.report.entries}
    operators = {(mark.is_layer, mark.now is None) for mark in facts.marks if mark.entry is None}
    items = [
        ("layer", "layer", "layer", (True, False) in operators),
        ("layer", "layer gone", "layer merged into another", (True, True) in operators),
        *(
            (
                "kept" if outcome is Outcome.KEPT else "batchnorm",
                f"bn {class_of(outcome)}",
                f"{outcome.value}: {outcome.description}",
                True,
            )
            for outcome in Outcome
            if outcome in present
        ),
        ("other", "other", "other node", (False, False) in operators),
        ("other", "other gone", "other node, removed from the folded graph", (False, True) in operators),
    ]
    legend = [element("li", key(shape, class_), label) for shape, class_, label, shown in items if shown]
    return element(
        "section",
        element("h2", "Graph", id="map"),
        element(
            "p",
            "The nodes in graph order, line by line; the number at the left counts nodes. An arc above leads from a "
            "BatchNormalization to the node that absorbs it. The faint lines below are values that later nodes read. A "
            "band is a block of the network with one input and one output. Hover over a mark for its name.",
        ),
        element("ul", *legend, class_="legend"),
        element("div", draw(facts), class_="scroll", role="region", aria_labelledby="map", tabindex=0),
    )


def _operators(facts: Facts) -> Html:
    changed = {operator for operator in facts.before | facts.after if facts.before[operator] != facts.after[operator]}
    counted = [*_ALWAYS_COUNTED, *sorted(changed - set(_ALWAYS_COUNTED))]
    lines = [("all nodes", facts.before.total(), facts.after.total())]
    lines += [(operator, facts.before[operator], facts.after[operator]) for operator in counted]
    rows = []
    for label, was, now in lines:
        change = f"{now - was:+,}".replace("-", "−") if now != was else ""
        rows.append(row(label if label == "all nodes" else name(label), was, now, change, numbers=[1, 2, 3]))
    found = table("Nodes but Constant, with functions inlined", ["operator", "before#", "after#", "change#"], rows)
    return element("section", element("h2", "Before and after"), found)


def _model(facts: Facts) -> Html:
    size = _bytes(facts.size)
    if facts.folded_size is not None:
        size += f", folded {_bytes(facts.folded_size)}"
    rows = [
        row("file", name(facts.name)),
        row("sha256", element("code", facts.sha256)),
        row("size", size),
        row("opset", ", ".join(f"{shortened(domain)} {number}" for domain, number in facts.opsets.items())),
        row("producer", shortened(facts.producer) or "not stated"),
        row("inputs", join(_value(value) for value in facts.inputs)),
        row("outputs", join(_value(value) for value in facts.outputs)),
    ]
    return element("section", element("h2", "The model"), table("As it is in the file", [], rows, "sheet"))


def _value(value: ValueRow) -> Html:
    return element("div", name(value.name), f" {value.dtype} {shortened(value.shape)}")


def _bytes(number: int) -> str:
    if number < 1024:
        return f"{number} bytes"
    power = min((number.bit_length() - 1) // 10, 4)
    return f"{number / 1024**power:.1f} {'KMGT'[power - 1]}iB"

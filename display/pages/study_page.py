"""The page of `normfold study`: each claim with its plot, table and verdict, in one self-contained file."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from normfold.display.pages.markup import Html, element, empty, join, row, table

if TYPE_CHECKING:
    from normfold.models.study.result import Cell, Check, ExperimentResult

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
TITLE = "What batch normalisation does, measured on digits"


def study_page(findings: Sequence[ExperimentResult], setup: str, rule: str) -> str:
    """Return the whole page.

    Args:
        findings: in order.
        setup: how it was measured, in a sentence.
        rule: by which verdicts follow from the numbers.
    """
    style = Html(Path(__file__).with_name("page.css").read_text(encoding="utf-8"))
    head = element(
        "head",
        empty("meta", charset="utf-8"),
        empty("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        empty("meta", name="viewport", content="width=device-width, initial-scale=1"),
        empty("meta", name="color-scheme", content="light dark"),
        element("title", f"{TITLE} – Normfold"),
        element("style", style),
    )
    body = element("body", element("main", *_sections(findings, setup, rule)), _footer())
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _sections(findings: Sequence[ExperimentResult], setup: str, rule: str) -> Iterator[Html]:
    yield element("header", element("h1", TITLE), element("p", setup), element("p", rule))
    counts = Counter(check.verdict.value for finding in findings for check in finding.checks)
    figures = [element("div", element("dt", verdict), element("dd", count)) for verdict, count in counts.most_common()]
    yield element("dl", *figures, class_="figures")
    yield _overview(findings)
    for number, finding in enumerate(findings, start=1):
        yield _section(number, finding)


def _overview(findings: Sequence[ExperimentResult]) -> Html:
    rows = [
        row(element("a", number, href=f"#{finding.name}"), check.claim, _verdict(check))
        for number, finding in enumerate(findings, start=1)
        for check in finding.checks
    ]
    found = table("Details below", ["section", "claim", "verdict"], rows, "overview")
    return element("section", element("h2", "The claims"), found)


def _section(number: int, finding: ExperimentResult) -> Html:
    picture = f"data:image/png;base64,{base64.b64encode(finding.plot).decode()}"
    columns = finding.table.columns
    rows = [row(*map(_cell, cells), numbers=range(1, len(columns))) for cells in finding.table.rows]
    heads = [columns[0], *(f"{column}#" for column in columns[1:])]
    return element(
        "section",
        element("h2", f"{number}. {finding.title}"),
        *(_check(check) for check in finding.checks),
        element("p", finding.method),
        element(
            "figure",
            empty("img", src=picture, alt=f"{finding.title}: the table below, drawn"),
            element("figcaption", finding.caption),
        ),
        element(
            "div",
            table("Mean ± standard error", heads, rows),
            class_="scroll",
            role="region",
            aria_label=f"Table of section {number}",
            tabindex=0,
        ),
        id=finding.name,
        class_="finding",
    )


def _check(check: Check) -> Html:
    return element(
        "p",
        element("strong", check.claim),
        " ",
        element("span", f"{check.source}.", class_="example"),
        element(
            "span",
            _verdict(check),
            f": {check.difference}: ",
            element("span", str(check.estimate), class_="number"),
            class_="found",
        ),
        class_="claim",
    )


def _verdict(check: Check) -> Html:
    return element("span", check.verdict.value, class_=f"outcome {check.verdict.name.lower().replace('_', '-')}")


def _cell(cell: Cell) -> str:
    from normfold.models.study.result import format_number

    return format_number(cell) if isinstance(cell, (int, float)) else str(cell)


def _footer() -> Html:
    made = join([f"Normfold {version('normfold')}. As data: study.json and a CSV of each table, in the same folder."])
    return element("footer", made)

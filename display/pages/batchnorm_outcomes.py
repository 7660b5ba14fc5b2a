"""The table of a page with one row for each BatchNormalization."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from normfold.display.pages.markup import Html, element, join, name, row, shortened, table

if TYPE_CHECKING:
    from normfold.export.fold.report import BatchNormOutcome, Outcome

_MAX_PATH_NODES = 4
"""Nodes of a path that are shown at once; of a longer one, their number, and on request their names."""
_MAX_REASON_LENGTH = 800


def batchnorm_table(entries: Sequence[BatchNormOutcome]) -> Html:
    """Return the section with one row for each BatchNormalization."""
    rows = []
    for number, entry in enumerate(entries, start=1):
        outcome = element("span", entry.outcome.value, class_=f"outcome {class_of(entry.outcome)}")
        place = element("a", number, href=f"#mark-{number}", aria_label=f"{number}, in the drawing")
        rows.append(row(name(entry.node), outcome, _path_or_reason(entry), place, numbers=[3], id=f"bn-{number}"))
    heads = ["BatchNormalization", "outcome", "path to the nodes that absorb it, or why it is kept", "place#"]
    found = table("Each BatchNormalization, in the graph’s order", heads, rows, "entries")
    return element("section", element("h2", "Nodes"), found)


def _path_or_reason(entry: BatchNormOutcome) -> Html:
    """Return the path to the nodes that absorbed a BatchNormalization, or why it was kept."""
    if entry.reason_code is not None:
        code = element("code", entry.reason_code, title=descriptions(entry))
        return join([code, " ", element("span", reason(entry))])
    if not entry.into:
        return element("span", "Removed: it computed the identity.")
    steps = [name(step) for step in entry.path if step not in entry.into]
    into = join(_between([element("strong", name(node)) for node in entry.into], ", "))
    if not steps:
        return into
    path = join(_between(steps, " · "))
    if len(steps) > _MAX_PATH_NODES:
        path = element("details", element("summary", f"through {len(steps)} nodes"), path)
    else:
        path = element("span", "through ", path, class_="steps")
    return join([into, " ", path])


def descriptions(entry: BatchNormOutcome) -> str:
    """Return the descriptions of an entry's reason codes, without markup."""
    return " ".join(dict.fromkeys(code.description.replace("`", "") for code in entry.reason_codes))


def reason(entry: BatchNormOutcome) -> str:
    """Return why a BatchNormalization was kept, shortened."""
    return shortened(entry.reason or "", _MAX_REASON_LENGTH)


def _between(parts: list[Html], separator: str) -> Iterator[Html | str]:
    for index, part in enumerate(parts):
        if index:
            yield separator
        yield part


def class_of(outcome: Outcome) -> str:
    """Return the class that gives an outcome its colour."""
    return outcome.value.replace(" ", "-")

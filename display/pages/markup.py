"""HTML as nested function calls, in which whatever is not HTML already is escaped.

Names come from the model, whoever made it: they cannot be mistaken for markup, since `element` escapes each child and
attribute that is no `Html`, and only this module and literals make `Html`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

LONGEST_NAME = 160
"""Characters of a name that are shown; of a longer one, its beginning and its end."""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = Html | str | int | None
Attribute = str | int | float | None


def element(tag: str, *children: Child, **attributes: Attribute) -> Html:
    """Return an element; `class_` is its class, other underscores in an attribute's name become hyphens."""
    return Html(f"<{tag}{_attributes(attributes)}>{join(children)}</{tag}>")


def empty(tag: str, **attributes: Attribute) -> Html:
    """Return an element that has no end tag, such as `meta`, or an SVG shape, which may do without."""
    return Html(f"<{tag}{_attributes(attributes)}/>")


def join(children: Iterable[Child]) -> Html:
    """Return children one after the other, escaped where they are not HTML; None is left out."""
    parts = (child if isinstance(child, Html) else escape(printable(str(child))) for child in children if child != None)  # noqa: E711
    return Html("".join(parts))


def name(text: str) -> Html:
    """Return a name from the model: in one style everywhere, and never longer than fits."""
    return element("code", shortened(text))


def shortened(text: str, longest: int = LONGEST_NAME) -> str:
    """Return a text, without its middle if it is long."""
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def printable(text: str) -> str:
    """Return a text with control characters and those that turn the direction of writing made visible."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def table(caption: Child, head: Sequence[str], rows: Iterable[Html], class_: str | None = None) -> Html:
    """Return a table, with or without a line of heads; a column whose head ends with "#" holds numbers."""
    cells = [
        element("th", title.rstrip("#"), scope="col", class_="number" if title.endswith("#") else None)
        for title in head
    ]
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *cells)) if cells else None,
        element("tbody", *rows),
        class_=class_,
    )


def row(*cells: Child, numbers: Iterable[int] = (), **attributes: Attribute) -> Html:
    """Return a table's row, whose first cell is its head; `numbers` says which columns hold numbers."""
    right = set(numbers)
    made = [
        element(
            "td" if index else "th", cell, scope=None if index else "row", class_="number" if index in right else None
        )
        for index, cell in enumerate(cells)
    ]
    return element("tr", *made, **attributes)


def bar(share: float, class_: str) -> Html:
    """Return a bar that is as wide as its share of the column."""
    fill = element("span", class_=f"fill {class_}", style=f"width:{100 * min(max(share, 0.0), 1.0):.1f}%")
    return element("span", fill, class_="bar", aria_hidden="true")


def _attributes(attributes: dict[str, Attribute]) -> str:
    return "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(printable(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )

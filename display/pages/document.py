"""The document around the sections of every page.

One file complete in itself: no script, no font, nothing fetched, which its own content policy also forbids.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from normfold.display.pages.markup import Html, element, empty

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def document(title: str, sections: Iterable[Html], command: str) -> str:
    """Return a whole page.

    Args:
        title: of the page.
        sections: what stands on it.
        command: that gives the same to programs.
    """
    style = Html(Path(__file__).with_name("page.css").read_text(encoding="utf-8"))
    head = element(
        "head",
        empty("meta", charset="utf-8"),
        empty("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        empty("meta", name="viewport", content="width=device-width, initial-scale=1"),
        empty("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} – Normfold"),
        element("style", style),
    )
    footer = element("footer", f"Normfold {version('normfold')}. As JSON: {command}.")
    body = element("body", element("main", *sections), footer)
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"

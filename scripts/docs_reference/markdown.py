"""Markdown of the generated pages: tables, sentences, and the rule that nothing public lacks a description."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


class UndocumentedError(Exception):
    """A public name, module, option, setting or metric has no description."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; columns in which every cell is empty are left out."""
    filled = [[one_line(cell).replace("|", "\\|") for cell in row] for row in rows]
    used = [column for column in range(len(head)) if any(row[column] for row in filled)]
    lines = [
        [head[column] for column in used],
        ["---"] * len(used),
        *([row[column] for column in used] for row in filled),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def described(text: str | None, name: str) -> str:
    """Return a description.

    Raises:
        UndocumentedError: it is missing.
    """
    if not text or not text.strip():
        raise UndocumentedError(f"{name} has no description")
    return text


def first_sentence(text: str) -> str:
    """Return the first sentence of the first paragraph, on one line."""
    paragraph = one_line(text.partition("\n\n")[0])
    sentence = re.split(r"(?<=\.) ", paragraph, maxsplit=1)[0]
    return sentence.rstrip(".:") + "."


def one_line(text: str) -> str:
    return " ".join(text.split())

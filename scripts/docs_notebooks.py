"""Notebooks of the tutorials, generated from their pages and scripts: `make notebooks`.

A page (docs/tutorials/NAME.md) has the text and includes sections of a script (NAME.py), which the tests run. The
notebook (NAME.ipynb) has the same text in Markdown cells and the same sections in code cells.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TUTORIALS = Path(__file__).resolve().parent.parent / "docs" / "tutorials"

_SECTION = re.compile(r"^# --- (\w+)\n", re.MULTILINE)
_INCLUDE = re.compile(
    r'^```\{literalinclude\} (\w+\.py)\n:start-after: "# --- (\w+)"\n(?::end-before: "# ---"\n)?```$', re.MULTILINE
)


def names() -> list[str]:
    """Return the names of the tutorials."""
    return sorted(path.stem for path in TUTORIALS.glob("*.py"))


def sections(script: str) -> dict[str, str]:
    """Return the code of each section of a script, in its order."""
    parts = _SECTION.split(script)[1:]
    return {name: code.strip() for name, code in zip(parts[::2], parts[1::2], strict=True)}


def included_sections(page: str) -> list[str]:
    """Return the sections that a page includes, in its order."""
    return [name for _, name in _INCLUDE.findall(page)]


def make_notebook(name: str) -> dict[str, Any]:
    """Return the notebook of a tutorial, in the format 4.5 of Jupyter."""
    page = (TUTORIALS / f"{name}.md").read_text()
    code = sections((TUTORIALS / f"{name}.py").read_text())
    cells = [_cell(index, kind, text) for index, (kind, text) in enumerate(_parts(page, code))]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def to_text(notebook: dict[str, Any]) -> str:
    """Return a notebook as the text of its file."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the notebook of each tutorial."""
    for name in names():
        path = TUTORIALS / f"{name}.ipynb"
        path.write_text(to_text(make_notebook(name)))
        sys.stdout.write(f"{path}\n")


def _parts(page: str, code: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the cells of a page: text and code in turn."""
    pieces = _INCLUDE.split(page)
    yield "markdown", pieces[0]
    for section, text in zip(pieces[2::3], pieces[3::3], strict=True):
        yield "code", code[section]
        if text.strip():
            yield "markdown", text


def _cell(index: int, kind: str, text: str) -> dict[str, Any]:
    lines = text.strip().splitlines(keepends=True)
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{index}", "metadata": {}, "source": lines}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell


if __name__ == "__main__":
    main()

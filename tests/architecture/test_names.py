"""Names hold the field's words: words that only this project used stand in no name."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT, modules

COINED = (
    *(
        "board",
        "colleague",
        "crew",
        "dear",
        "doors",
        "feeds",
        "fewest",
        "gently",
        "halves",
        "held_out",
        "largest",
        "most",
    ),
    *("owed", "room", "said", "short_way", "skeleton", "taken_anew", "tell", "told", "wish"),
)

STANDARD = frozenset({"most_common"})
"""Names of the standard library."""

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def words(name: str) -> str:
    """Return a name in lower case with an underscore between its words, and at both ends."""
    return f"_{_HUMP.sub('_', name).lower().strip('_')}_"


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield every name in a file with its line: what it defines, assigns, reads, imports, and passes by keyword."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.Name(id=name) | ast.Attribute(attr=name):
                yield node.lineno, name
            case ast.keyword(arg=str(name)):
                yield node.value.lineno, name
            case ast.alias(name=name, asname=other):
                yield node.lineno, other or name.rpartition(".")[2]


@functools.cache
def coined(name: str) -> bool:
    """Return whether a name holds a word that only this project used."""
    return name not in STANDARD and any(f"_{word}_" in words(name) for word in COINED)


_ANYWHERE = re.compile("|".join(word.replace("_", "_?") for word in COINED), re.IGNORECASE)
"""Matches every source that can hold such a name: to parse all files takes seconds."""


def find_coined(source: str) -> list[str]:
    """Return the names of a file that hold such a word, with their lines."""
    if not _ANYWHERE.search(source):
        return []
    return [f"{line}: {name}" for line, name in names(ast.parse(source)) if coined(name)]


def coined_path(path: Path) -> bool:
    """Return whether a folder or file on a path has such a name."""
    return any(coined(part) for part in path.with_suffix("").parts)


FILES = modules()


def test_files_are_found() -> None:
    assert len(FILES) > 300


def test_files_have_no_coined_name() -> None:
    assert not [path for path in FILES if coined_path(path)]
    assert not [f"{path}:{found}" for path in FILES for found in find_coined((ROOT / path).read_text())]


def test_service_has_no_shift() -> None:
    """`shift` is beta; the service knows no parameters of a BatchNorm, and calls what it watches drift."""
    found = [
        f"{path}:{line}: {name}"
        for path in FILES
        if path.parts[0] == "service"
        for line, name in names(ast.parse((ROOT / path).read_text()))
        if "_shift_" in words(name)
    ]
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "def tell(): ...",
        "class MostRows: ...",
        "LARGEST_BATCH = 1",
        "def f(held_out): ...",
        "x.wish",
        "f(feeds=1)",
        "from a import Board",
        "import a as room",
        "for said in x: ...",
        "async def short_way(): ...",
    ],
)
def test_coined_word_is_found_in_every_kind_of_name(source: str) -> None:
    assert find_coined(source)


@pytest.mark.parametrize("source", ["almost = 1", "mushroom = 1", "'said'", "def boarding(): ...", "foretold = 1"])
def test_part_of_a_word_is_no_coined_word(source: str) -> None:
    assert not find_coined(source)

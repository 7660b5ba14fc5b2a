"""The help of every command, as a terminal of 80 columns shows it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer
from rich.console import Console

from normfold.cli.main import COMMANDS, app
from tests.support.command import RunCommand


def commands() -> list[tuple[str, ...]]:
    """Return the words of every command: one, or two of a group."""
    main: Any = typer.main.get_command(app)
    groups = {name: getattr(main.get_command(typer.Context(main), name), "commands", None) for name in COMMANDS}
    return [(name, *each) for name, group in groups.items() for each in ([(one,) for one in group] if group else [()])]


def words(text: str) -> set[str]:
    """Return the words of a help without its borders, those of alternatives one by one."""
    return set(re.split(r"[\s|│╭╮╰╯─]+", text))


@pytest.fixture
def help_at(normfold: RunCommand, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function of a width and a command: its help."""

    def show(columns: int, command: tuple[str, ...]) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        assert Console().width == columns
        return normfold(*command, "--help")[1]

    return show


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_cuts_no_word(help_at: Any, command: tuple[str, ...]) -> None:
    assert words(help_at(400, command)) == words(help_at(80, command))


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_shows_defaults_in_one_style_and_names_no_file_of_a_clone(help_at: Any, command: tuple[str, ...]) -> None:
    text = help_at(400, command)
    assert "[default: (" not in text
    assert not re.search(r"\([^ ()]+\)\. *│", text), "a default in parentheses"
    assert "docs/" not in text


@pytest.mark.parametrize("command", [("export",), ("adapt",), ("unfold",), ("repository", "list")], ids=" ".join)
def test_option_repository_is_read_from_the_environment(help_at: Any, command: tuple[str, ...]) -> None:
    assert "[env var: NORMFOLD_REPOSITORY]" in help_at(400, command)

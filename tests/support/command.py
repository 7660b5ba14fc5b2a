"""The command `normfold`: run in this process, serving in a process of its own, and the HTML that it writes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx

from tests.support.raw_http import open_client

RunCommand = Callable[..., tuple[int, str, str]]
"""Type of the fixture `normfold`: a function of the arguments; returns (exit code, standard output, standard error)."""

SCRIPT = "from normfold.cli.main import main; main()"
"""Python code that is the command."""


def in_one_line(text: str) -> str:
    """Return what the command printed without its line breaks, which depend on the width of the terminal."""
    return " ".join(text.split())


def environment_without_settings(**changes: str) -> dict[str, str]:
    """Return this process's environment without the settings of a service, and with `changes`."""
    return {name: value for name, value in os.environ.items() if not name.startswith("NORMFOLD_")} | changes


def run_serve(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `normfold serve` until it ends by itself; `variables` are added to its environment."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, "serve", *options],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment_without_settings(**variables),
        check=False,
    )


@contextlib.contextmanager
def serving_process(
    repository: Path, *options: str, script: str = SCRIPT, before: Sequence[str] = (), **variables: str
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Start the command, and end it whatever happens; yields its process and the addresses that it prints.

    `before` is a program, with its arguments, that starts the command.
    """
    command = [*before, sys.executable, "-c", script, "serve", "--repository", str(repository), "--json", *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment_without_settings(**variables),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()  # written once the port is open
        assert line, process.stderr.read() if process.stderr else ""
        yield process, json.loads(line)
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def serving(
    repository: Path, *options: str, script: str = SCRIPT, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """Start the command on a free port, and end it whatever happens; yields its process and a client."""
    with (
        serving_process(repository, "--port", "0", *options, script=script, **variables) as (process, facts),
        open_client(facts["url"]) as client,
    ):
        yield process, client


VOID_ELEMENTS = {"meta", "br", "hr", "img", "input", "link", "base", "source"}
"""HTML elements without an end tag."""


class Page(HTMLParser):
    """The tags, attributes, text and table rows of an HTML page; asserts that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.rows: dict[str, str] = {}
        self._row = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)
        identity = dict(attrs).get("id") or ""
        if tag == "tr" and identity.startswith("bn-"):
            assert identity not in self.rows
            self._row = identity
            self.rows[identity] = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "tr":
            self._row = ""

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data
        if self._row:
            self.rows[self._row] += data

    def values(self, key: str) -> list[str]:
        """Return the values of an attribute."""
        return [value for _, found, value in self.attributes if found == key]

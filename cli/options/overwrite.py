"""The option --force of commands that write a file: one that is there is replaced only if the user says so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from normfold._shared.overwrite import is_same_file
from normfold.contract.errors import InputError
from normfold.display.terminal.console import err

FORCE: Any = typer.Option("--force", help="Write over files that exist.")
FORCE_OR_SLOW: Any = typer.Option(
    "--force", help="Write over OUT.onnx if it exists, and write an int8 network that is not faster."
)


def ask_before_overwriting(force: bool, *targets: Path | None, read: str | Path) -> None:
    """Ask on the terminal whether files that exist may be written over.

    Args:
        force: the option --force was given: nothing is asked.
        targets: files to write; None for those that are not written.
        read: the source, about which nothing is asked: it is not written over without --force.

    Raises:
        InputError: one exists, and standard input is not a terminal.
        Exit: the answer is no; the code is 1.
    """
    existing = [path for path in targets if path is not None and path.is_file() and not is_same_file(path, read)]
    if force or not existing:
        return
    names = ", ".join(repr(str(path)) for path in existing)
    exists = f"{names} exist{'s' * (len(existing) == 1)} already"
    if not sys.stdin.isatty():
        raise InputError(f"{exists}; name another file to write, or give --force.")
    err.print(f"{exists}. Write over {'it' if len(existing) == 1 else 'them'}? [y/N]", end=" ", markup=False)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        err.print("Nothing was written.")
        raise typer.Exit(1)

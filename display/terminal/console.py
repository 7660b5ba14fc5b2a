"""The consoles of all commands: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

out = Console(highlight=False, soft_wrap=False, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def print_json(record: dict[str, Any]) -> None:
    """Write one JSON object to standard output: the output of `--json`."""
    sys.stdout.write(json.dumps(record, indent=2, allow_nan=False) + "\n")


def warn(sentence: str) -> None:
    """Write one warning to standard error."""
    err.print("warning:", style="yellow", end=" ")
    err.print(sentence, markup=False)


def fail(sentence: str) -> None:
    """Write one error to standard error."""
    err.print("error:", style="red", end=" ")
    err.print(sentence, markup=False)

"""The options --input, what the network takes, and --inputs, what both networks are run on to verify them.

    command                     --input                   --inputs
    fold, export                uint8|SHAPE|uint8:SHAPE   FILE.npz
    audit, inspect              SHAPE
    quantize, verify            SHAPE                     FILE.npz
    adapt, unfold                                         FILE.npz

SHAPE is that of one sample, of a network that module:factory returns.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from normfold.contract.errors import InputError

PIXELS = "uint8"
"""Value of --input for a network that is to take 8-bit pixels."""

_SHAPE = re.compile(r"(uint8:)?[0-9]+([xX][0-9]+)*|uint8")


def parse_input(text: str | None) -> tuple[str | None, bool]:
    """Parse --input: the shape of one sample, uint8, or both as uint8:3x224x224.

    Returns:
        The shape, as text, if there is one; and whether the network is to take pixels.
    """
    if text is None:
        return None, False
    kind, colon, shape = text.partition(":")
    if kind == PIXELS:
        return shape if colon else None, True
    return text, False


def _check_input(text: str | None) -> str | None:
    """Refuse a file, which --inputs takes."""
    if text is not None and (text.endswith(".npz") or ("/" in text and Path(text).is_file())):
        raise InputError(f"--input is the network's input, a shape or uint8; {text!r} is for --inputs.")
    if text is not None and text.isidentifier() and text != PIXELS:
        raise InputError(f"--input {text!r} is not uint8, nor a shape such as 3x224x224.")
    return text


def _check_shape(text: str | None) -> str | None:
    if text is not None and parse_input(text)[1]:
        raise InputError(f"--input {text!r} makes a network take pixels, which fold and export do; give a shape here.")
    return _check_input(text)


def _check_inputs(path: Path | None) -> Path | None:
    """Refuse a shape, which --input takes."""
    if path is not None and _SHAPE.fullmatch(str(path)) and not path.exists():
        raise InputError(f"--inputs is a file of inputs to verify with; {str(path)!r} is for --input.")
    return path


INPUT: Any = typer.Option(
    "--input",
    metavar="uint8|SHAPE",
    help="The network's input. uint8: accept 8-bit pixels, and fold their standardisation too. For module:factory also "
    "the shape of one sample, as 3x224x224 or uint8:3x224x224.",
    callback=_check_input,
)
SHAPE: Any = typer.Option(
    "--input",
    metavar="SHAPE",
    help="The network's input: shape of one sample of module:factory, such as 3x224x224.",
    callback=_check_shape,
)
INPUTS: Any = typer.Option(
    "--inputs",
    metavar="FILE",
    help="Inputs for the verification: .npz, an array for each input.",
    show_default="random",
    callback=_check_inputs,
)

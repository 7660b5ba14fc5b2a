"""Options of the commands that convert a network to a lower precision."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

import typer

from normfold.display.terminal.console import warn

if TYPE_CHECKING:
    from normfold.contract.precision.record import PrecisionProof


class LowerPrecision(StrEnum):
    """Precisions that a network can be converted to."""

    INT8 = "int8"
    FLOAT16 = "float16"


class ExportPrecision(StrEnum):
    """Precisions that a network can be exported in."""

    FLOAT32 = "float32"
    INT8 = "int8"
    FLOAT16 = "float16"


class Ranges(StrEnum):
    """Sources of the ranges of activations."""

    STATISTICS = "statistics"
    RECORDED = "recorded"
    SAMPLES = "samples"


SAMPLES: Any = typer.Option(
    "--samples",
    help="For int8 and float16: samples to compare with and, in int8, to take ranges from: a folder of images, an .npz "
    "(raw inputs 'x', or tensors named like the network's inputs; labels 'y', numbers or names of the card), a .csv, "
    "or the state folder of a service.",
    metavar="FILE|DIR",
)
TENSORS: Any = typer.Option("--tensors/--raw", help="Content of the .npz, if the names of its arrays are ambiguous.")
RANGES: Any = typer.Option(
    "--ranges",
    help="For int8: source of the ranges of activations: samples, recorded (by export on training data, or by adapt), "
    "or statistics.",
    metavar="SOURCE",
    show_default="the first of these that there is",
)
MAX_DROP: Any = typer.Option(
    "--max-drop",
    min=0,
    max=1,
    metavar="SHARE",
    help="Largest loss of accuracy if the samples have labels, otherwise of agreement in class; not applied without "
    "samples.",
    show_default="0.01",
)
FORCE: Any = typer.Option("--force", help="Write an int8 network that is not faster.")
FLOAT16_IO: Any = typer.Option(
    "--float16-io", help="For float16: make inputs and outputs float16 too; clients send them as binary data."
)
NO_REFERENCE: Any = typer.Option(
    "--no-reference", help="Do not keep the float32 network beside one of int8 or float16."
)


def warn_of_unapplied_drop(max_drop: float | None, proof: PrecisionProof) -> None:
    """Warn where --max-drop was given and could not be applied; without --json the output says it."""
    from normfold.display.terminal.precision import unchecked_sentence

    if max_drop is not None and (sentence := unchecked_sentence(proof)) is not None:
        warn(sentence)

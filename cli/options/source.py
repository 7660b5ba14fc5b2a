"""The source of a command, a run folder, a bundle, an ONNX file or module:factory, and the options of the last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from normfold.cli.completion import complete_source

FACTORY = "For module:factory"

SOURCE: Any = typer.Argument(
    help="A run folder, a bundle (REPOSITORY/NAME), an ONNX file, or module:factory.",
    metavar="SOURCE",
    autocompletion=complete_source,
)
WEIGHTS: Any = typer.Option(
    "--weights",
    help="Weights of the network: safetensors, a state dict or a checkpoint.",
    metavar="FILE",
    rich_help_panel=FACTORY,
)
WEIGHTS_KEY: Any = typer.Option(
    "--weights-key",
    help="Of the state dict in --weights, such as state_dict_ema.",
    metavar="KEY",
    rich_help_panel=FACTORY,
)
STRIP_PREFIX: Any = typer.Option(
    "--strip-prefix", help="Before the network's names in --weights.", metavar="PREFIX", rich_help_panel=FACTORY
)
PARTIAL: Any = typer.Option("--partial", help="Load of --weights what fits.", rich_help_panel=FACTORY)
ARG: Any = typer.Option(
    "--arg", help="Argument of the factory; repeatable.", metavar="NAME=VALUE", rich_help_panel=FACTORY
)
KEEP_STATISTICS: Any = typer.Option(
    "--keep-statistics", help="Do not recalibrate the running mean and variance of a run folder."
)


def of_factory(
    input_shape: str | None,
    weights: Path | None,
    weights_key: str | None,
    strip_prefix: str | None,
    partial: bool,
    arg: list[str] | None,
) -> dict[str, Any]:
    """Return the options of module:factory as arguments of the Python API."""
    return {
        "input_shape": input_shape,
        "weights": weights,
        "weights_key": weights_key,
        "strip_prefix": strip_prefix,
        "partial": partial,
        "arguments": tuple(arg or ()),
    }

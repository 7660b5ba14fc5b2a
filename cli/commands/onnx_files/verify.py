"""`normfold verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normfold.cli.completion import complete_source
from normfold.cli.options.input import INPUTS, SHAPE
from normfold.cli.options.source import ARG, KEEP_STATISTICS, PARTIAL, STRIP_PREFIX, WEIGHTS, WEIGHTS_KEY, of_factory
from normfold.cli.warnings import warnings_as_sentences
from normfold.display.terminal.console import err, fail, out, print_json
from normfold.display.terminal.verification import verification_record, verification_table


def verify(
    original: Annotated[
        str,
        typer.Argument(
            help="The reference: a run folder, a bundle (its unfolded model), an ONNX file, or module:factory.",
            metavar="A",
            autocompletion=complete_source,
        ),
    ],
    folded: Annotated[
        str | None,
        typer.Argument(
            help="The model to verify; one of the same kinds. Of a bundle, the model that is served.",
            metavar="B",
            show_default="the served model of the bundle A",
            autocompletion=complete_source,
        ),
    ] = None,
    inputs: Annotated[Path | None, INPUTS] = None,
    input_: Annotated[str | None, SHAPE] = None,
    weights: Annotated[Path | None, WEIGHTS] = None,
    weights_key: Annotated[str | None, WEIGHTS_KEY] = None,
    strip_prefix: Annotated[str | None, STRIP_PREFIX] = None,
    partial: Annotated[bool, PARTIAL] = False,
    arg: Annotated[list[str] | None, ARG] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            help="Source card, if the file B takes 8-bit pixels; a card of {} if A standardises them itself.",
            metavar="FILE",
        ),
    ] = None,
    keep_statistics: Annotated[bool, KEEP_STATISTICS] = False,
    seeds: Annotated[int, typer.Option(min=4, help="Number of random inputs.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare two models on the same inputs, relative to the rounding noise of the first.

    Noise is the change of A's outputs when its inputs move by one unit in the last place (or its weights, if the first
    rounding would remove that change). B may differ by 8 times the noise, plus the floor: 1e-6 of the output's range
    for float32, a few roundings of the dtype for others. Each channel is also measured relative to its own range. If B
    differs by more, the exit code is 1.

    Example: `normfold verify resnet50.onnx folded.onnx`

    Example: `normfold verify runs/digits model_repository/digits`
    """
    from normfold import verify as compare

    with err.status("starting") as status, warnings_as_sentences():
        result = compare(
            original,
            folded,
            inputs=inputs,
            seeds=seeds,
            card=card,
            **of_factory(input_, weights, weights_key, strip_prefix, partial, arg),
            keep_statistics=keep_statistics,
            progress=status.update,
        )
    if as_json:
        print_json(verification_record(result.verification))
    else:
        out.print(verification_table(result.verification))
    if not result.passes:
        lower = "" if result.precision is None else f" It is {result.precision.kind}; normfold inspect shows its proof."
        unfolded = "its unfolded model" if folded is None else repr(original)
        fail(f"{folded or original!r} does not reproduce {unfolded}.{lower}")
        raise typer.Exit(1)

"""`normfold unfold`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normfold.cli.completion import complete_source
from normfold.cli.options.input import INPUTS
from normfold.cli.options.overwrite import FORCE, ask_before_overwriting
from normfold.cli.repository_option import explicit_repository, names_repository
from normfold.display.terminal.console import err, out, print_json, warn
from normfold.display.terminal.verification import verification_record, verification_table

if TYPE_CHECKING:
    from normfold import UnfoldResult


def unfold(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="A bundle ([REPOSITORY/]NAME), or a folded ONNX file from any tool.",
            metavar="BUNDLE|FILE.onnx",
            autocompletion=complete_source,
        ),
    ],
    target: Annotated[
        Path | None,
        typer.Argument(
            help="Path of the unfolded model to write.", metavar="OUT.onnx", show_default="NAME.unfolded.onnx"
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            help="For a file: unlabelled samples to take statistics from: an .npz (raw inputs 'x', or tensors named "
            "like the network's inputs), a folder of images or a .csv with a card.",
            metavar="FILE|DIR",
        ),
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(
            envvar="NORMFOLD_REPOSITORY",
            help="Folder of models, for a NAME without one.",
            show_default="model_repository",
        ),
    ] = None,
    version: Annotated[int | None, typer.Option(min=1, help="The model's version, if not the newest.")] = None,
    card: Annotated[
        Path | None,
        typer.Option(help="For a file: the source card, if not FILE.json beside the model.", metavar="FILE"),
    ] = None,
    tensors: Annotated[
        bool | None,
        typer.Option(
            "--tensors/--raw",
            help="If the names of its arrays are ambiguous: the .npz holds tensors as the network takes them, or raw "
            "inputs that are standardised first.",
        ),
    ] = None,
    inputs: Annotated[Path | None, INPUTS] = None,
    force: Annotated[bool, FORCE] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Restore a BatchNormalization after each layer of a folded network, for further training elsewhere.

    A model of the repository gets its own nodes back. In any other file, one is inserted after each Conv, ConvTranspose
    and Gemm (and MatMul, if its output is a matrix). It takes over the layer's bias, and has the statistics of the
    samples. The function does not change. This is verified like a fold: if outputs differ, nothing is written and the
    exit code is 1.

    Example: `normfold unfold folded.onnx unfolded.onnx --samples images.npz`
    """
    from normfold import unfold as unfold_model
    from normfold._shared.unfold import default_target

    folder = explicit_repository(context, repository, names_repository(source))
    ask_before_overwriting(force, target or default_target(source), read=source)
    with err.status("starting") as status:
        result = unfold_model(
            source,
            target,
            samples=samples,
            repository=folder,
            version=version,
            card=card,
            as_tensors=tensors,
            inputs=inputs,
            force=force,
            progress=status.update,
        )
    for sentence in result.warnings:
        warn(sentence)
    if as_json:
        print_json(_record(result))
        return
    for sentence in result.report.left:
        out.print(sentence, markup=False, soft_wrap=True)
    count = len(result.report.layers)
    out.print(
        f"{count} BatchNormalization node{'s' * (count != 1)} in {str(result.target)!r}.", markup=False, soft_wrap=True
    )
    out.print(verification_table(result.verification))


def _record(result: UnfoldResult) -> dict[str, Any]:
    return {
        "target": str(result.target),
        "layers": [layer.to_dict() for layer in result.report.layers],
        "left": list(result.report.left),
        "warnings": list(result.warnings),
        "verification": verification_record(result.verification),
    }

"""`normfold inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normfold.display.terminal.console import err, fail, out, print_json, warn
from normfold.display.terminal.fold import fold_sentence, fold_table, outcome_table, verification_table


def inspect(
    model: Annotated[Path, typer.Argument(help="An ONNX model.", metavar="MODEL.onnx")],
    html: Annotated[
        Path | None, typer.Option(help="Write an HTML page with a drawing of the graph.", metavar="FILE")
    ] = None,
    verify: Annotated[bool, typer.Option(help="For the page, fold into a temporary file and verify the fold.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show every BatchNormalization of a model: where a fold would put it, or why it would stay.

    Writes only the page, if requested. If the verification fails, the exit code is 1.

    Example: `normfold inspect resnet50.onnx --html resnet50.html`
    """
    from normfold import inspect as inspect_model

    with err.status("starting") as status:
        result = inspect_model(model, verify=verify and html is not None, html=html, progress=status.update)
    for sentence in result.report.warnings:
        warn(sentence)
    if as_json:
        print_json(result.report.to_dict())
    else:
        out.print(fold_sentence(result.report, "can be folded"), markup=False)
        if result.report.entries:
            out.print(outcome_table(result.report), "", fold_table(result.report), sep="\n")
        if result.verification is not None:
            out.print("", verification_table(result.verification), sep="\n")
    if result.verification is not None and not result.verification.passes:
        fail(f"{str(model)!r} does not compute the same when it is folded; {str(html)!r} shows by how much.")
        raise typer.Exit(1)

"""`normfold inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.console import err, out, print_json, warn
from cli.packages import require_packages
from cli.tables import fold_sentence, fold_table


def inspect(
    model: Annotated[Path, typer.Argument(help="An ONNX model.", metavar="MODEL.onnx")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show every BatchNormalization of a model: where a fold would put it, or why it would stay.

    Writes nothing.

    Example: `normfold inspect resnet50.onnx`
    """
    require_packages("onnx", "onnx_ir", extra="export", needed_for="normfold inspect")
    from export.fold import fold
    from export.onnx_file import load_model

    with err.status("reading the model"):
        report = fold(load_model(model))
    for sentence in report.warnings:
        warn(sentence)
    if as_json:
        print_json(report.to_dict())
        return
    if report.entries:
        out.print(fold_table(report))
    out.print(fold_sentence(report, "can be folded"), markup=False)

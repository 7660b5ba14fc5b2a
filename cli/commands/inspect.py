"""`normfold inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normfold.cli.packages import require_export, require_packages
from normfold.contract.errors import InputError
from normfold.display.terminal.console import err, fail, out, print_json, warn
from normfold.display.terminal.fold import fold_sentence, fold_table, outcome_table, verification_table

if TYPE_CHECKING:
    from normfold.display.pages.facts import Facts


def inspect(
    model: Annotated[Path, typer.Argument(help="An ONNX model.", metavar="MODEL.onnx")],
    html: Annotated[
        Path | None, typer.Option(help="Write it as one page, with a drawing of the graph.", metavar="FILE")
    ] = None,
    verify: Annotated[
        bool, typer.Option(help="For the page, fold into a temporary file and compare error with noise.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show every BatchNormalization of a model: where a fold would put it, or why it would stay.

    Writes nothing but the page, if one is asked for. If the proof on the page fails, the exit code is 1.

    Example: `normfold inspect resnet50.onnx --html resnet50.html`
    """
    facts = None
    if html is None:
        require_packages("onnx", "onnx_ir", extra="export", needed_for="normfold inspect")
        from normfold.export.fold.fold import fold
        from normfold.export.onnx_io.model_file import load_model

        with err.status("reading the model"):
            report = fold(load_model(model))
    else:
        facts = _write_page(model, html, verify)
        report = facts.report
    for sentence in report.warnings:
        warn(sentence)
    if as_json:
        print_json(report.to_dict())
    else:
        out.print(fold_sentence(report, "can be folded"), markup=False)
        if report.entries:
            out.print(outcome_table(report), "", fold_table(report), sep="\n")
        if facts is not None and facts.verification is not None:
            out.print("", verification_table(facts.verification), sep="\n")
    if facts is not None and facts.verification is not None and not facts.verification.passes:
        fail(f"{str(model)!r} does not compute the same when it is folded; {str(html)!r} shows by how much.")
        raise typer.Exit(1)


def _write_page(model: Path, html: Path, proven: bool) -> Facts:
    """Write the page, whole or not at all, and return what stands on it."""
    require_export("normfold inspect --html")
    if html.resolve() == model.resolve():
        raise InputError(f"--html {str(html)!r} is the model itself; give the page another name.")
    from normfold.contract.atomic_write import atomic_path
    from normfold.display.pages.facts import gather
    from normfold.display.pages.fold_page import fold_page

    with atomic_path(html) as path, err.status("starting") as status:
        facts = gather(model, proven, status.update)
        path.write_text(fold_page(facts), encoding="utf-8")
    return facts

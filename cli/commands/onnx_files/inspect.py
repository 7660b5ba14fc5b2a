"""`normfold inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normfold.cli.option_names import report_in_options
from normfold.cli.options.input import SHAPE
from normfold.cli.options.overwrite import FORCE, ask_before_overwriting
from normfold.cli.options.source import ARG, PARTIAL, SOURCE, STRIP_PREFIX, WEIGHTS, WEIGHTS_KEY, of_factory
from normfold.cli.warnings import warnings_as_sentences
from normfold.display.terminal.console import err, fail, out, print_json, warn
from normfold.display.terminal.fold import fold_sentence, fold_table, gain_sentence, outcome_table, size_record
from normfold.display.terminal.verification import timing_sentence, verification_table


def inspect(
    source: Annotated[str, SOURCE],
    html: Annotated[
        Path | None, typer.Option(help="Write an HTML page with a drawing of the graph.", metavar="FILE")
    ] = None,
    verify: Annotated[bool, typer.Option(help="For the page, fold into a temporary file and verify the fold.")] = True,
    time: Annotated[
        bool, typer.Option("--time", help="Fold into a temporary file, and time a run before and after, on one thread.")
    ] = False,
    nodes: Annotated[
        bool, typer.Option("--nodes", help="List every BatchNormalization, also those kept for the same reason.")
    ] = False,
    input_: Annotated[str | None, SHAPE] = None,
    weights: Annotated[Path | None, WEIGHTS] = None,
    weights_key: Annotated[str | None, WEIGHTS_KEY] = None,
    strip_prefix: Annotated[str | None, STRIP_PREFIX] = None,
    partial: Annotated[bool, PARTIAL] = False,
    arg: Annotated[list[str] | None, ARG] = None,
    force: Annotated[bool, FORCE] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show every BatchNormalization of a model: where a fold would put it, or why it would stay.

    Writes only the page, if requested. If the verification fails, the exit code is 1.

    Example: `normfold inspect resnet50.onnx --html resnet50.html`

    Example: `normfold inspect model_repository/digits`
    """
    from normfold import inspect as inspect_model

    ask_before_overwriting(force, html, read=source)
    with err.status("starting") as status, warnings_as_sentences():
        result = inspect_model(
            source,
            verify=verify and html is not None,
            html=html,
            time=time,
            **of_factory(input_, weights, weights_key, strip_prefix, partial, arg),
            progress=status.update,
        )
    report = report_in_options(result.report)
    for sentence in report.warnings:
        warn(sentence)
    if as_json:
        timing = None if result.timing is None else result.timing.to_dict()
        print_json(report.to_dict() | {"size": size_record(report), "timing": timing})
    else:
        out.print(fold_sentence(report, "can be folded"), markup=False)
        if (gained := gain_sentence(report)) is not None:
            out.print(gained, markup=False)
        if result.timing is not None:
            out.print(timing_sentence(result.timing), markup=False)
        if report.entries:
            table = fold_table(report, out.width, every_node=nodes)
            out.print("", outcome_table(report), "", table, sep="\n")
        if result.verification is not None:
            out.print("", verification_table(result.verification), sep="\n")
    if result.verification is not None and not result.verification.passes:
        fail(f"{source!r} does not compute the same when it is folded; {str(html)!r} shows by how much.")
        raise typer.Exit(1)

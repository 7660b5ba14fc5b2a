"""`normfold fold`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from normfold._shared.overwrite import is_same_file
from normfold.cli.option_names import report_in_options
from normfold.cli.options.input import INPUT, INPUTS, parse_input
from normfold.cli.options.overwrite import FORCE, ask_before_overwriting
from normfold.cli.options.source import (
    ARG,
    KEEP_STATISTICS,
    PARTIAL,
    SOURCE,
    STRIP_PREFIX,
    WEIGHTS,
    WEIGHTS_KEY,
    of_factory,
)
from normfold.contract.errors import InputError
from normfold.display.terminal.console import err, out, print_json, warn
from normfold.display.terminal.fold import fold_sentence, fold_table, gain_sentence, pixel_sentence, size_record
from normfold.display.terminal.statistics import accuracy_sentence
from normfold.display.terminal.verification import timing_sentence, verification_record, verification_table


def fold(
    source: Annotated[str, SOURCE],
    target: Annotated[Path, typer.Argument(help="Path of the folded model to write.", metavar="OUT.onnx")],
    report: Annotated[
        Path | None, typer.Option(help="Write the report: every BatchNormalization, as JSON.", metavar="FILE")
    ] = None,
    inputs: Annotated[Path | None, INPUTS] = None,
    input_: Annotated[str | None, INPUT] = None,
    weights: Annotated[Path | None, WEIGHTS] = None,
    weights_key: Annotated[str | None, WEIGHTS_KEY] = None,
    strip_prefix: Annotated[str | None, STRIP_PREFIX] = None,
    partial: Annotated[bool, PARTIAL] = False,
    arg: Annotated[list[str] | None, ARG] = None,
    card: Annotated[
        Path | None,
        typer.Option(help="Source card for --input uint8, if not that of the source.", metavar="FILE"),
    ] = None,
    keep_statistics: Annotated[bool, KEEP_STATISTICS] = False,
    merge: Annotated[bool, typer.Option(help="Merge parallel linear branches into one layer, as in RepVGG.")] = True,
    freeze_inputs: Annotated[
        bool,
        typer.Option("--freeze-inputs", help="Make constants of inputs with a default; callers override none then."),
    ] = False,
    verify: Annotated[bool, typer.Option(help="Verify the fold before OUT.onnx is written.")] = True,
    time: Annotated[bool, typer.Option("--time", help="Time a run before and after, on one thread.")] = False,
    force: Annotated[bool, FORCE] = False,
    nodes: Annotated[bool, typer.Option("--nodes", help="List every BatchNormalization, one by one.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fold the BatchNormalization nodes of a network into the weights around them, and write an ONNX file.

    The folded model is compared with the original before it is written. It may differ by 8 times the network's own
    rounding noise, plus 1e-6 of the output's range (for dtypes other than float32, a few roundings of that dtype). Each
    channel is also measured relative to its own range. If it differs by more, nothing is written and the exit code is
    1.

    Example: `normfold fold resnet50.onnx folded.onnx --report report.json`

    Example: `normfold fold runs/digits folded.onnx`
    """
    from normfold import fold as fold_model
    from normfold._shared.packages import require_export
    from normfold._shared.sources.resolve import files_of
    from normfold._shared.sources.source import Source

    require_export("normfold fold")
    models = (*files_of(Source.of(source)), target)
    if report is not None and (
        report.resolve() == target.resolve() or any(is_same_file(report, one) for one in models)
    ):
        raise InputError(f"--report {str(report)!r} is a model of this command; give the report another name.")
    input_shape, takes_pixels = parse_input(input_)
    ask_before_overwriting(force, target, report, read=source)
    from normfold.contract.atomic_write import atomic_path

    with ExitStack() as stack:
        report_path = stack.enter_context(atomic_path(report)) if report is not None else None
        status = stack.enter_context(err.status("starting"))
        folded = fold_model(
            source,
            target,
            verify=verify,
            inputs=inputs,
            takes_pixels=takes_pixels,
            card=card,
            merge=merge,
            freeze_inputs=freeze_inputs,
            time=time,
            **of_factory(input_shape, weights, weights_key, strip_prefix, partial, arg),
            keep_statistics=keep_statistics,
            force=force,
            progress=status.update,
        )
        found = report_in_options(folded.report)
        if report_path is not None:
            report_path.write_text(json.dumps(found.to_dict(), indent=2) + "\n")
    for sentence in found.warnings:
        warn(sentence)
    if as_json:
        verification = None if folded.verification is None else verification_record(folded.verification)
        more = {"target": str(target), "size": size_record(found), "verification": verification}
        timing = None if folded.timing is None else folded.timing.to_dict()
        print_json(found.to_dict() | more | {"timing": timing})
        return
    if found.batchnorm_after or (nodes and found.entries):
        out.print(fold_table(found, out.width, every_node=nodes, kept_only=not nodes))
    if (moved := folded.running_statistics) is not None:
        out.print(accuracy_sentence(moved), markup=False)
    out.print(fold_sentence(found), markup=False)
    if (gained := gain_sentence(found)) is not None:
        out.print(gained, markup=False)
    if folded.timing is not None:
        out.print(timing_sentence(folded.timing), markup=False)
    if found.input is not None:
        out.print(pixel_sentence(found.input), markup=False)
    if folded.verification is not None:
        out.print(verification_table(folded.verification))

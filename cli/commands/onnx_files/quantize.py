"""`normfold quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from normfold.cli.completion import complete_source
from normfold.cli.option_names import report_in_options
from normfold.cli.options.input import INPUTS, SHAPE
from normfold.cli.options.overwrite import FORCE_OR_SLOW, ask_before_overwriting
from normfold.cli.options.source import ARG, KEEP_STATISTICS, PARTIAL, STRIP_PREFIX, WEIGHTS, WEIGHTS_KEY, of_factory
from normfold.cli.precision_options import (
    FLOAT16_IO,
    MAX_DROP,
    NO_REFERENCE,
    RANGES,
    SAMPLES,
    TENSORS,
    LowerPrecision,
    Ranges,
    warn_of_unapplied_drop,
)
from normfold.cli.repository_option import explicit_repository, names_repository
from normfold.cli.warnings import warnings_as_sentences
from normfold.display.terminal.console import err, out, print_json, warn
from normfold.display.terminal.fold import fold_sentence
from normfold.display.terminal.precision import precision_record, print_precision


def quantize(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="A bundle ([REPOSITORY/]NAME), which gets a new version; or a float32 ONNX file, a run folder or "
            "module:factory.",
            metavar="SOURCE",
            autocompletion=complete_source,
        ),
    ],
    target: Annotated[
        Path | None, typer.Argument(help="Not for a bundle: path of the model to write.", metavar="OUT.onnx")
    ] = None,
    precision: Annotated[
        LowerPrecision, typer.Option(help="Precision to convert to: int8 or float16.", metavar="NAME")
    ] = LowerPrecision.INT8,
    samples: Annotated[Path | None, SAMPLES] = None,
    tensors: Annotated[bool | None, TENSORS] = None,
    ranges: Annotated[Ranges | None, RANGES] = None,
    repository: Annotated[
        Path | None,
        typer.Option(
            envvar="NORMFOLD_REPOSITORY", help="Folder of models, for a NAME alone.", show_default="model_repository"
        ),
    ] = None,
    version: Annotated[int | None, typer.Option(min=1, help="The model's version, if not the newest.")] = None,
    card: Annotated[
        Path | None,
        typer.Option(help="Not for a bundle: the source card, if not that of the source.", metavar="FILE"),
    ] = None,
    inputs: Annotated[Path | None, INPUTS] = None,
    input_: Annotated[str | None, SHAPE] = None,
    weights: Annotated[Path | None, WEIGHTS] = None,
    weights_key: Annotated[str | None, WEIGHTS_KEY] = None,
    strip_prefix: Annotated[str | None, STRIP_PREFIX] = None,
    partial: Annotated[bool, PARTIAL] = False,
    arg: Annotated[list[str] | None, ARG] = None,
    keep_statistics: Annotated[bool, KEEP_STATISTICS] = False,
    max_drop: Annotated[float | None, MAX_DROP] = None,
    force: Annotated[bool, FORCE_OR_SLOW] = False,
    float16_io: Annotated[bool, FLOAT16_IO] = False,
    no_reference: Annotated[bool, NO_REFERENCE] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Convert a network to int8 or float16, and prove how near it is to the folded float32 network.

    For a bundle a new version is published, from its newest version alone. Any other source is folded on the way.
    Ranges of int8 come from --samples, or are those that export recorded on the training data of a run folder, or adapt
    on its samples; otherwise they come from the BatchNormalization statistics that the fold removed.

    The result is compared with float32 before it is written: signal to noise of the outputs and layers, classes and
    accuracy on the samples, time and size. If it loses more than --max-drop, or an int8 network is not faster, nothing
    is written and the exit code is 1. Without samples, accuracy is not measured, and --max-drop not applied.

    Example: `normfold quantize model_repository/digits`

    Example: `normfold quantize resnet50.onnx resnet50.int8.onnx --samples images.npz`
    """
    from normfold import quantize as quantize_network
    from normfold._shared.sources.bundle import is_run_folder

    is_no_name = target is not None or ":" in source or is_run_folder(Path(source)) or names_repository(source)
    folder = explicit_repository(context, repository, is_no_name)
    ask_before_overwriting(force, target, read=source)
    with err.status("starting") as status, warnings_as_sentences():
        result = quantize_network(
            source,
            target,
            precision=precision.value,
            samples=samples,
            as_tensors=tensors,
            ranges=None if ranges is None else ranges.value,
            repository=folder,
            version=version,
            card=card,
            inputs=inputs,
            max_drop=max_drop,
            **of_factory(input_, weights, weights_key, strip_prefix, partial, arg),
            keep_statistics=keep_statistics,
            force=force,
            float16_io=float16_io,
            keep_reference=not no_reference,
            progress=status.update,
        )
    fold_warnings = () if result.report is None else tuple(result.report.warnings)
    for sentence in (*result.warnings, *fold_warnings, *result.proof.notes):
        warn(sentence)
    if as_json:
        warn_of_unapplied_drop(max_drop, result.proof)
        record: dict[str, Any] = {"target": str(result.path), "precision": precision_record(result.precision)}
        if result.manifest is not None:
            record |= {"name": result.manifest.name, "version": result.manifest.version}
        if result.report is not None:
            record["fold"] = report_in_options(result.report).to_dict()
        print_json(record)
        return
    if result.report is not None:
        out.print(fold_sentence(result.report), markup=False)
    print_precision(result.precision, result.manifest)
    out.print(f"{str(result.path)!r} is {precision.value}.", markup=False, soft_wrap=True)

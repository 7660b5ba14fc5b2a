"""`normfold export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from normfold._shared.paths import REPOSITORY
from normfold.cli.completion import complete_source
from normfold.cli.option_names import in_options, report_in_options
from normfold.cli.options.input import INPUT, INPUTS, parse_input
from normfold.cli.options.source import ARG, KEEP_STATISTICS, PARTIAL, STRIP_PREFIX, WEIGHTS, WEIGHTS_KEY, of_factory
from normfold.cli.precision_options import (
    FLOAT16_IO,
    FORCE,
    MAX_DROP,
    NO_REFERENCE,
    RANGES,
    SAMPLES,
    TENSORS,
    ExportPrecision,
    Ranges,
    warn_of_unapplied_drop,
)
from normfold.cli.warnings import warnings_as_sentences
from normfold.display.terminal.console import err, out, print_json, warn
from normfold.display.terminal.fold import fold_sentence, monitor_record, monitor_sentence, pixel_sentence
from normfold.display.terminal.precision import precision_record, print_precision
from normfold.display.terminal.statistics import accuracy_sentence, movement_table
from normfold.display.terminal.triton import config_record
from normfold.display.terminal.verification import verification_record, verification_table


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="A run folder, an ONNX file, or module:factory.",
            metavar="RUN|FILE.onnx|MODULE:FACTORY",
            autocompletion=complete_source,
        ),
    ],
    repository: Annotated[
        Path, typer.Option(envvar="NORMFOLD_REPOSITORY", help="Folder of models to write to; created if missing.")
    ] = Path(REPOSITORY),
    name: Annotated[str | None, typer.Option(help="Name of the model; derived from the source if not given.")] = None,
    version: Annotated[int | None, typer.Option(help="Version; the next free one if not given.")] = None,
    card: Annotated[
        Path | None, typer.Option(help="Source card (JSON): preprocessing, labels …", metavar="FILE")
    ] = None,
    input_: Annotated[str | None, INPUT] = None,
    weights: Annotated[Path | None, WEIGHTS] = None,
    weights_key: Annotated[str | None, WEIGHTS_KEY] = None,
    strip_prefix: Annotated[str | None, STRIP_PREFIX] = None,
    partial: Annotated[bool, PARTIAL] = False,
    arg: Annotated[list[str] | None, ARG] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX opset, when exporting from torch.")] = None,
    dynamic_size: Annotated[bool, typer.Option("--dynamic-size", help="Leave height and width free.")] = False,
    keep_statistics: Annotated[bool, KEEP_STATISTICS] = False,
    inputs: Annotated[Path | None, INPUTS] = None,
    merge: Annotated[bool, typer.Option(help="Merge parallel linear branches into one layer, as in RepVGG.")] = True,
    keep_source: Annotated[
        bool, typer.Option("--source/--no-source", help="Keep the unfolded model in the bundle.")
    ] = True,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            help="Inputs outside the training data, for the drift thresholds: .npz, an array for each input. "
            "For a run folder, its validation data by default, and test and training data if those are under 100 rows.",
        ),
    ] = None,
    monitor: Annotated[
        bool, typer.Option(help="Write the data with which the service monitors inputs for drift.")
    ] = True,
    precision: Annotated[
        ExportPrecision,
        typer.Option(help="float32, int8 or float16; the last two as by normfold quantize.", metavar="NAME"),
    ] = ExportPrecision.FLOAT32,
    samples: Annotated[Path | None, SAMPLES] = None,
    tensors: Annotated[bool | None, TENSORS] = None,
    ranges: Annotated[Ranges | None, RANGES] = None,
    max_drop: Annotated[float | None, MAX_DROP] = None,
    force: Annotated[bool, FORCE] = False,
    float16_io: Annotated[bool, FLOAT16_IO] = False,
    no_reference: Annotated[bool, NO_REFERENCE] = False,
    triton: Annotated[
        bool, typer.Option("--triton", help="Write config.pbtxt too, so that Triton serves the same folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fold a network, verify the fold, and write a bundle that `normfold serve` can run.

    The source is a run folder of `normfold train`, any ONNX file (needs no torch), or your own function that returns
    a torch network. If the folded network differs from the original by more than its rounding noise, nothing
    is written and the exit code is 1.

    The running statistics of a run folder are first recalibrated over all of its training data, with frozen weights.
    If that lowers validation accuracy, the statistics of training are kept. The ranges of the activations on these data
    are recorded, for `normfold quantize`.

    With `--precision int8` or `float16`, the folded network is converted and compared with float32 as by `normfold
    quantize`, on the data of a run folder or on `--samples`.

    With `--input uint8`, clients send pixels from 0 to 255, a quarter of the bytes, and the network standardises them.

    Example: `normfold export runs/digits --repository model_repository --name digits`
    """
    from normfold import export as export_network
    from normfold._shared.packages import require_export

    require_export("normfold export")
    from normfold.export.bundle.calibrate import MIN_ROWS
    from normfold.export.verify.runner import Engine

    input_shape, takes_pixels = parse_input(input_)
    with err.status("starting") as status, warnings_as_sentences():
        exported = export_network(
            source,
            repository,
            name=name,
            version=version,
            card=card,
            **of_factory(input_shape, weights, weights_key, strip_prefix, partial, arg),
            takes_pixels=takes_pixels,
            opset=opset,
            dynamic_size=dynamic_size,
            keep_statistics=keep_statistics,
            inputs=inputs,
            merge=merge,
            keep_source=keep_source,
            calibration_data=calibration,
            monitor=monitor,
            precision=precision.value,
            samples=samples,
            as_tensors=tensors,
            ranges=None if ranges is None else ranges.value,
            max_drop=max_drop,
            force=force,
            float16_io=float16_io,
            keep_reference=not no_reference,
            triton=triton,
            progress=status.update,
        )
    for sentence in exported.report.warnings:
        warn(sentence)
    if exported.verification.engine is Engine.REFERENCE:
        warn("ONNX Runtime cannot run this model on the CPU: the bundle is verified, but cannot be served there.")
    remedy = (
        f"To have them, export again with --calibration FILE, an .npz of at least {MIN_ROWS} rows of normal inputs."
    )
    if calibration is not None and exported.monitor is not None and not exported.monitor.calibration_rows:
        warn(
            f"The calibration inputs give no threshold: at least {MIN_ROWS} rows are needed, finite in each layer and "
            "not all equal."
        )
    manifest, report = exported.manifest, report_in_options(exported.report)
    kept_statistics = None if exported.kept_statistics is None else in_options(exported.kept_statistics)
    moved = manifest.card.running_statistics
    if moved is not None and not moved.taken:
        warn("The running statistics are those of training: recalibration lowers validation accuracy.")
    for sentence in () if manifest.precision is None else manifest.precision.proof.notes:
        warn(sentence)
    for sentence in () if exported.triton is None else exported.triton.notes:
        warn(sentence)
    if as_json:
        if manifest.precision is not None:
            warn_of_unapplied_drop(max_drop, manifest.precision.proof)
        print_json(
            {
                "bundle": str(exported.path),
                "name": manifest.name,
                "version": manifest.version,
                "batchable": manifest.batchable,
                "running_statistics": None if moved is None else moved.model_dump(mode="json"),
                "kept_statistics": kept_statistics,
                "fold": report.to_dict(),
                "verification": verification_record(exported.verification),
                "monitor": monitor_record(exported.monitor, exported.threshold_rows, remedy),
                "precision": precision_record(manifest.precision),
                "triton": None if exported.triton is None else config_record(exported.triton),
            }
        )
        return
    if moved is not None:
        out.print(movement_table(moved), accuracy_sentence(moved), "", sep="\n", markup=False)
    elif report.entries:
        out.print(f"Running statistics as they are: {kept_statistics}.", markup=False)
    out.print(fold_sentence(report), markup=False)
    if report.input is not None:
        out.print(pixel_sentence(report.input), markup=False)
    out.print(verification_table(exported.verification))
    if manifest.precision is not None:
        print_precision(manifest.precision, manifest)
    out.print(monitor_sentence(exported.monitor, exported.threshold_rows, remedy), markup=False)
    table = Table.grid(padding=(0, 2))
    table.add_row("bundle", str(exported.path))
    table.add_row("serve it", f"normfold serve --repository {repository}")
    if exported.triton is not None:
        table.add_row("for Triton", str(exported.triton.path))
    out.print(table)

"""`normfold audit`."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from normfold.cli.packages import require_packages
from normfold.cli.source import (
    Source,
    SourceError,
    build_factory,
    parse_shape,
    refuse_stray_options,
    require_torch_source,
)
from normfold.contract.errors import InputError
from normfold.contract.findings import Audit, Finding, Severity
from normfold.contract.progress import ProgressCallback
from normfold.display.terminal.audit import audit_record, findings_table, verdict
from normfold.display.terminal.console import err, fail, out, print_json


class FailOn(StrEnum):
    """Lowest severity of a finding that makes the exit code 1."""

    WARNING = "warning"
    ERROR = "error"
    NEVER = "never"


def audit(
    source: Annotated[
        str,
        typer.Argument(help="A run folder, an ONNX file, or module:factory.", metavar="RUN|MODEL.onnx|MODULE:FACTORY"),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Data to compare with: digits, npz:PATH, csv:PATH or images:DIR (the run's).", metavar="DATA"
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights of module:factory, as .safetensors or a .pt/.pth state dict.", metavar="FILE"),
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input", help="Shape of one sample for module:factory without --data: 3x224x224.", metavar="SHAPE"
        ),
    ] = None,
    arg: Annotated[
        list[str] | None, typer.Option(help="Argument of module:factory; repeatable.", metavar="NAME=VALUE")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write an HTML page with histograms per layer.", metavar="FILE")
    ] = None,
    fail_on: Annotated[
        FailOn, typer.Option(help="Exit with 1 for a finding of this severity or above.")
    ] = FailOn.ERROR,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find problems of BatchNorm layers in a trained network, an ONNX file, or a network of your own.

    Checks for statistics that were never set or differ from the data's, variance near zero, dead channels, NaN, an
    unusual epsilon, train mode, dropout before BatchNorm, and small batches. The source is not changed.
    docs/statistics.md explains each finding.

    Example: `normfold audit runs/digits --html audit.html`

    Example: `normfold audit resnet50.onnx --fail-on warning`
    """
    given = Source(source, weights=weights, input_shape=input_, arguments=tuple(arg or ()))
    refuse_stray_options(given)
    if html is not None and html.resolve() == Path(source).resolve():
        raise InputError(f"--html {str(html)!r} is the model itself; give the page another name.")
    with err.status("starting") as status:
        found = _audit_onnx(given, data) if given.is_onnx else _audit_torch(given, data, status.update)
    found = dataclasses.replace(found, findings=_in_order(found))
    if html is not None:
        _write_page(html, source, found)
    if as_json:
        print_json(audit_record(source, found))
    else:
        if found.findings:
            out.print(findings_table(found))
        out.print(verdict(found), *found.notes, sep="\n", markup=False)
    if fail_on is not FailOn.NEVER and (bad := found.at_least(Severity(fail_on.value))):
        fail(f"{len(bad)} finding{'s' * (len(bad) > 1)} in {source!r} of severity {fail_on} or above.")
        raise typer.Exit(1)


def _in_order(found: Audit) -> tuple[Finding, ...]:
    return tuple(sorted(found.findings, key=lambda finding: -list(Severity).index(finding.severity)))


def _audit_onnx(given: Source, data: str | None) -> Audit:
    if data is not None:
        raise SourceError("--data is for a run folder or module:factory; an ONNX file is audited without data.")
    require_packages("onnx", "onnx_ir", extra="export", needed_for="normfold audit")
    from normfold.export.audit import audit_onnx

    return audit_onnx(Path(given.text))


def _audit_torch(given: Source, data: str | None, progress: ProgressCallback) -> Audit:
    require_torch_source(given)
    require_packages("torch", "sklearn", "safetensors", extra="train", needed_for="normfold audit of a torch network")
    from normfold.models.batchnorm.audit import audit_network
    from normfold.models.batchnorm.audit_subject import load_given_data, subject_of_network, subject_of_run

    progress("reading the data")
    if not given.is_factory:
        subject, no_rows_reason = subject_of_run(Path(given.text), data)
    else:
        dataset = None if data is None else load_given_data(data)
        if dataset is not None and given.input_shape is not None:
            raise SourceError("--input and --data both give the shape of a sample; give one of them.")
        if dataset is None and given.input_shape is None:
            raise SourceError("A module:factory needs --input, the shape of one sample, or --data.")
        shape = dataset.input_shape if dataset is not None else parse_shape(given.input_shape or "")
        network = build_factory(given, shape, None if dataset is None else len(dataset.labels))
        subject, no_rows_reason = subject_of_network(network, shape, dataset), "no --data were given."
    found = audit_network(subject, progress)
    notes = found.notes
    if subject.rows is None:
        notes += (f"Statistics were not compared with data: {no_rows_reason}",)
    return dataclasses.replace(found, notes=notes)


def _write_page(html: Path, source: str, found: Audit) -> None:
    """Write the page atomically."""
    from normfold.contract.atomic_write import atomic_path
    from normfold.display.pages.audit_page import audit_page

    with atomic_path(html) as path:
        path.write_text(audit_page(source, found), encoding="utf-8")

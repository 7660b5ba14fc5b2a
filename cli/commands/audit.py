"""`normfold audit`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from normfold.cli.options.input import SHAPE
from normfold.cli.options.overwrite import FORCE, ask_before_overwriting
from normfold.cli.options.source import ARG, PARTIAL, SOURCE, STRIP_PREFIX, WEIGHTS, WEIGHTS_KEY, of_factory
from normfold.cli.warnings import warnings_as_sentences
from normfold.display.terminal.console import err, fail, out, print_json


class FailOn(StrEnum):
    """Lowest severity of a finding that makes the exit code 1."""

    WARNING = "warning"
    ERROR = "error"
    NEVER = "never"


def audit(
    source: Annotated[str, SOURCE],
    data: Annotated[
        str | None,
        typer.Option(
            help="Data to compare with: digits, npz:PATH, csv:PATH, parquet:PATH, images:DIR or masks:DIR "
            "(those of the run).",
            metavar="DATA",
        ),
    ] = None,
    input_: Annotated[str | None, SHAPE] = None,
    weights: Annotated[Path | None, WEIGHTS] = None,
    weights_key: Annotated[str | None, WEIGHTS_KEY] = None,
    strip_prefix: Annotated[str | None, STRIP_PREFIX] = None,
    partial: Annotated[bool, PARTIAL] = False,
    arg: Annotated[list[str] | None, ARG] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write an HTML page with histograms per layer.", metavar="FILE")
    ] = None,
    fail_on: Annotated[
        FailOn, typer.Option(help="Exit with 1 for a finding of this severity or above.")
    ] = FailOn.ERROR,
    force: Annotated[bool, FORCE] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find problems of BatchNorm layers in a run folder, a bundle, an ONNX file, or your own network.

    Checks for statistics that were never set or differ from the data's, variance near zero, dead channels, NaN, an
    unusual epsilon, train mode, dropout before BatchNorm, and small batches. The source is not changed.
    The page "Audit findings" of the documentation lists every finding.

    Example: `normfold audit runs/digits --html audit.html`

    Example: `normfold audit resnet50.onnx --fail-on warning`
    """
    from normfold import audit as audit_network
    from normfold.display.terminal.audit import audit_record, findings_table, verdict

    ask_before_overwriting(force, html, read=source)
    with err.status("starting") as status, warnings_as_sentences():
        result = audit_network(
            source,
            data=data,
            **of_factory(input_, weights, weights_key, strip_prefix, partial, arg),
            html=html,
            progress=status.update,
        )
    if as_json:
        print_json(audit_record(source, result.audit))
    else:
        if result.findings:
            out.print(findings_table(result.audit))
        out.print(verdict(result.audit), *result.audit.notes, sep="\n", markup=False)
    if fail_on is not FailOn.NEVER and (bad := result.at_least(fail_on)):
        fail(f"{len(bad)} finding{'s' * (len(bad) > 1)} in {source!r} of severity {fail_on} or above.")
        raise typer.Exit(1)

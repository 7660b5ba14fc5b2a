"""`normfold adapt`: statistics from samples without labels become a new version of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from normfold._shared.paths import REPOSITORY
from normfold.cli.completion import complete_source
from normfold.cli.option_names import in_options, report_in_options
from normfold.cli.options.input import INPUTS
from normfold.cli.repository_option import explicit_repository, names_repository
from normfold.contract.errors import InputError
from normfold.display.terminal.console import err, out, print_json, warn
from normfold.display.terminal.fold import fold_sentence, monitor_record, monitor_sentence
from normfold.display.terminal.precision import precision_record, print_precision
from normfold.display.terminal.verification import verification_record, verification_table
from normfold.errors import ArgumentError

if TYPE_CHECKING:
    from normfold.export.adapt.recalibrate import RecalibratedLayer


def adapt(
    context: typer.Context,
    bundle: Annotated[
        Path,
        typer.Argument(
            help="The model, in its repository; its newest version.",
            metavar="REPOSITORY/NAME|NAME",
            autocompletion=complete_source,
        ),
    ],
    samples: Annotated[
        Path,
        typer.Option(
            help="Unlabelled samples in the order of recording: a folder of images, an .npz (raw inputs 'x', or "
            "tensors named like the network's inputs), a .csv, or the state folder of a service that keeps inputs.",
            metavar="FILE|DIR",
        ),
    ],
    repository: Annotated[
        Path, typer.Option(envvar="NORMFOLD_REPOSITORY", help="Folder of models, for a NAME without one.")
    ] = Path(REPOSITORY),
    prior: Annotated[
        float | None,
        typer.Option(
            min=0, max=1e9, help="Weight of the training statistics, as a number of samples.", show_default="16.0"
        ),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(min=1, help="The version to adapt, if not the newest."),
    ] = None,
    tensors: Annotated[
        bool | None,
        typer.Option(
            "--tensors/--raw",
            help="If the names of its arrays are ambiguous: the .npz holds tensors as the network takes them, or raw "
            "inputs that are standardised first.",
        ),
    ] = None,
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial", help="Leave layers whose statistics cannot be replaced or sampled, and adapt the others."
        ),
    ] = False,
    inputs: Annotated[Path | None, INPUTS] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would change, and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Recalibrate a bundle's BatchNormalization statistics from samples, fold again, and publish a new version.

    For inputs that have changed since training, for example another camera or other lighting. Needs no torch, no
    checkpoint and no labels. Needs at least 32 samples from one distribution, and 100 for drift thresholds of the new
    version. If the first half of the samples differs from the second, or the new fold cannot be verified, nothing is
    written and the exit code is 1. `normfold repository rollback` undoes it. A version in int8 or float16 is converted
    again by the options that it was made with.

    Example: `normfold adapt model_repository/digits --samples images/`
    """
    from normfold import adapt as adapt_bundle

    is_named = names_repository(bundle)
    if is_named and explicit_repository(context, repository, is_named) is not None:
        raise ArgumentError(f"`repository` goes with the name of a model alone; {str(bundle)!r} names a folder, too.")
    with err.status("reading the repository") as status, _advice_on_a_missing_name(bundle):
        adapted = adapt_bundle(
            bundle.parent if len(bundle.parts) > 1 else repository,
            bundle.name,
            samples,
            prior=prior,
            version=version,
            as_tensors=tensors,
            allow_partial=allow_partial,
            dry_run=True,
            progress=status.update,
        )
    for sentence in adapted.warnings:
        warn(in_options(sentence))
    source = adapted.source
    record = {
        "name": source.name,
        "from_version": source.version,
        "samples": adapted.samples,
        "samples_origin": adapted.samples_origin,
        "prior": adapted.prior,
        "layers": [_layer_record(layer) for layer in adapted.layers],
        "unchanged": [in_options(sentence) for sentence in adapted.adapted.recalibration.unchanged],
    }
    if not as_json:
        if adapted.samples_origin is not None:
            out.print(adapted.samples_origin, markup=False)
        out.print(_table(adapted.layers))
    if dry_run:
        adapted.require()
        if as_json:
            print_json({**record, "version": None, "bundle": None})
        else:
            out.print("Nothing was written.")
        return
    with err.status("folding") as status:
        exported = adapted.publish(inputs=inputs, progress=status.update).exported
    assert exported is not None
    for sentence in exported.report.warnings:
        warn(sentence)
    if as_json:
        verification = verification_record(exported.verification)
        place = {"version": exported.manifest.version, "bundle": str(exported.path)}
        monitor = monitor_record(exported.monitor, "samples")
        checked = {"verification": verification, "monitor": monitor}
        precision = {"precision": precision_record(exported.manifest.precision)}
        print_json({**record, **place, "fold": report_in_options(exported.report).to_dict(), **checked, **precision})
        return
    out.print(fold_sentence(exported.report), markup=False)
    out.print(verification_table(exported.verification))
    if exported.manifest.precision is not None:
        print_precision(exported.manifest.precision, exported.manifest)
    out.print(monitor_sentence(exported.monitor, "samples"), markup=False)
    out.print(
        f"{source.name}/{exported.manifest.version} is {source.name}/{source.version} adapted to "
        f"{adapted.samples:,} samples.",
        markup=False,
    )


@contextmanager
def _advice_on_a_missing_name(bundle: Path) -> Iterator[None]:
    """Say that a name is missing, where a folder that is no model is given as one: the repository itself.

    Raises:
        InputError: `bundle` is such a folder.
    """
    from normfold.export.errors import NoModelError, NoRepositoryError

    try:
        yield
    except (NoModelError, NoRepositoryError):
        if not bundle.is_dir():
            raise
        raise InputError(f"{str(bundle)!r} is a folder, and no model; give REPOSITORY/NAME.") from None


def _table(layers: tuple[RecalibratedLayer, ...]) -> Table:
    """Return one row for each layer: how far its statistics moved, and the gap between the halves of the samples."""
    import numpy as np

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("BatchNormalization", overflow="fold")
    for name in (
        "channels",
        "mean moved\n(old std)",
        "largest",
        "variance\nnew / old",
        "halves apart\n(std, z-score)",
    ):
        table.add_column(name, justify="right")
    for layer in layers:
        farther = max(layer.stability.means, layer.stability.variances, key=lambda gap: (gap.is_significant, gap.z))
        table.add_row(
            Text(layer.node),
            str(layer.new.mean.size),
            f"{np.median(layer.moved):.2g}",
            f"{layer.moved.max():.2g}",
            f"{np.median(layer.variance_ratio):.2g}",
            Text(f"{farther.gap:.2g}, {farther.z:.1f}", style="red" if farther.is_significant else ""),
        )
    return table


def _layer_record(layer: RecalibratedLayer) -> dict[str, Any]:
    """Return plain types for JSON; `z` is null where the samples of each half are equal."""
    import numpy as np

    return {
        "node": layer.node,
        "channels": layer.new.mean.size,
        "mean_moved": {"median": float(np.median(layer.moved)), "largest": float(layer.moved.max())},
        "variance_ratio": {
            "median": float(np.median(layer.variance_ratio)),
            "smallest": float(layer.variance_ratio.min()),
            "largest": float(layer.variance_ratio.max()),
        },
        "stability": {
            name: {"gap": gap.gap, "z": gap.z if np.isfinite(gap.z) else None}
            for name, gap in (("means", layer.stability.means), ("variances", layer.stability.variances))
        },
    }

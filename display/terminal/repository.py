"""The versions of a repository as tables and sentences for a terminal, and as records for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from normfold.contract.outputs.metric_names import METRIC_NAMES
from normfold.display.terminal.precision import precision_record

if TYPE_CHECKING:
    from normfold.contract.manifest import Manifest
    from normfold.export.repository.removal import Removal
    from normfold.export.repository.versions import Leftover, ModelFolder, Version

_COLUMNS = (
    "version",
    "created",
    "size",
    "BatchNorm\nleft",
    "accuracy",
    "precision",
    "origin",
)

_DATE_WIDTH = 10
"""Of the date alone: in a narrow terminal the time goes into a second line."""
_MIN_ORIGIN_WIDTH, _MIN_VERSION_WIDTH = 14, 10
_GAP = 2
"""Between two columns."""


def size_text(size: int) -> str:
    """Return a number of bytes in the unit that suits it."""
    return decimal(size)


def version_table(models: Iterable[ModelFolder], width: int) -> Table:
    """Return one row for each version: its size, and what its manifest says; without columns that would be empty.

    Args:
        models: with their versions.
        width: of the terminal, in columns.
    """
    rows = [
        (f"{model.name}/{number}", *_cells(version)) for model in models for number, version in model.versions.items()
    ]
    cells = dict(zip(_COLUMNS, zip(*rows, strict=True), strict=True))
    shown = {name: column for name, column in cells.items() if any(column)}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, column_width in _widths(shown, width).items():
        is_text = name in ("version", "created", "origin")
        table.add_column(name, justify="left" if is_text else "right", overflow="fold", width=column_width)
    for row in zip(*shown.values(), strict=True):
        table.add_row(*map(Text, row))
    return table


def _widths(columns: Mapping[str, Sequence[str]], width: int) -> dict[str, int]:
    """Return the width of each column: of its longest text where there is room, otherwise some texts take more lines.

    First the origin does, then the date, then the version.
    """
    natural = {name: max(map(len, (*name.split("\n"), *texts))) for name, texts in columns.items()}
    widths = dict(natural)

    def fit(name: str, least: int) -> None:
        """Change the width of a column, so that all columns have the width of the terminal, as far as possible."""
        if name in widths:
            excess = sum(widths.values()) + _GAP * (len(widths) - 1) - width
            widths[name] = min(natural[name], max(least, widths[name] - excess))

    fit("origin", _MIN_ORIGIN_WIDTH)
    fit("created", _DATE_WIDTH)
    if widths.get("created") != natural.get("created"):
        widths["created"] = _DATE_WIDTH  # the time goes into a second line, and the origin takes what is left
        fit("origin", _MIN_ORIGIN_WIDTH)
    fit("version", _MIN_VERSION_WIDTH)
    return widths


def _cells(version: Version) -> tuple[str, ...]:
    manifest, size = version.manifest, size_text(version.size)
    if manifest is None:
        return ("–", size, "", "", "", "")
    return (
        manifest.created[:16].replace("T", " "),
        size,
        f"{manifest.fold.batchnorm_after} of {manifest.fold.batchnorm_before}",
        _score(manifest),
        "" if manifest.precision is None else manifest.precision.kind.value,
        ", ".join(_origin(manifest)),
    )


def _origin(manifest: Manifest) -> Iterator[str]:
    """Yield what a version comes from: the network and its data, and the version that it was made of."""
    if manifest.card.origin:
        yield manifest.card.origin
    if manifest.adapted is not None:
        yield f"adapted from {manifest.adapted.from_version}"
    if manifest.precision is not None and manifest.precision.from_version is not None:
        yield f"converted from {manifest.precision.from_version}"
    if manifest.copy_of is not None:
        yield f"copy of {manifest.copy_of}"


def problem_lines(models: Iterable[ModelFolder]) -> Iterator[str]:
    """Yield a sentence for everything that is wrong, with the version that it is about before it."""
    for model in models:
        if model.fault is not None:
            yield f"{model.name}: {model.fault}"
        for version in model.versions.values():
            if version.problem is not None:
                yield f"{model.name}/{version.number}: {version.problem}"
        for leftover in model.leftovers:
            yield f"{model.name}/{leftover.folder.name}: {leftover_sentence(leftover)}"


def leftover_sentence(leftover: Leftover) -> str:
    """Return a sentence on a leftover: whether it is being written, or was left behind."""
    from normfold.export.repository.removal import is_abandoned

    if not is_abandoned(leftover):
        return "It is being written, or was until less than an hour ago."
    what = "An interrupted export" if leftover.is_reserved else "An interrupted deletion"
    return f"{what} left it behind; normfold repository prune removes it."


def _score(manifest: Manifest) -> str:
    """Return accuracy, or the metric of another task with its name, on the test split."""
    metric = manifest.card.metric
    if metric == "accuracy":
        accuracy = accuracy_on_test_split(manifest)
        return "" if accuracy is None else f"{accuracy:.4f}"
    value = _metrics_of_training(manifest).get(f"test_{metric}")
    return "" if value is None else f"{METRIC_NAMES[metric]} {value:.4f}"


def accuracy_on_test_split(manifest: Manifest) -> float | None:
    """Return the accuracy on the test split, if the card has one.

    That of an adapted network, or of one in a lower precision, was not measured there.
    """
    metrics = _metrics_of_training(manifest)
    return metrics.get("test_accuracy", metrics.get("accuracy"))


def _metrics_of_training(manifest: Manifest) -> dict[str, float]:
    return manifest.card.metrics if manifest.adapted is None and manifest.precision is None else {}


def describe_model(model: ModelFolder) -> dict[str, Any]:
    """Return plain types for JSON."""
    return {
        "name": model.name,
        "problem": None if model.fault is None else str(model.fault),
        "versions": [describe(version) for version in model.versions.values()],
        "leftovers": [
            {"folder": leftover.folder.name, "problem": leftover_sentence(leftover)} for leftover in model.leftovers
        ],
    }


def describe(version: Version) -> dict[str, Any]:
    """Return plain types for JSON; what only a manifest says is null where there is none."""
    manifest = version.manifest
    facts: dict[str, Any] = dict.fromkeys(
        ("created", "batchnorm_before", "batchnorm_after", "accuracy", "origin", "copy_of", "adapted", "precision")
    )
    if manifest is not None:
        facts = {
            "created": manifest.created,
            "batchnorm_before": manifest.fold.batchnorm_before,
            "batchnorm_after": manifest.fold.batchnorm_after,
            "accuracy": accuracy_on_test_split(manifest),
            "origin": manifest.card.origin,
            "copy_of": manifest.copy_of,
            "adapted": None if manifest.adapted is None else manifest.adapted.model_dump(),
            "precision": precision_record(manifest.precision),
        }
    return {"version": version.number, "bytes": version.size, **facts, "problem": version.problem}


def removal_table(removals: Iterable[Removal]) -> Table:
    """Return one row for each folder that is to go, with the size of the files in it."""
    from normfold.export.repository.versions import held_bytes

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    for removal in removals:
        for folder in removal.folders:
            table.add_row(Text(f"{removal.model.name}/{folder.name}"), size_text(held_bytes([folder])))
    return table

"""Validation and test rows from files of their own, joined to the rows of the training file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from normfold.contract.arrays import Array
from normfold.models.data.files import RawData
from normfold.models.data.image_files.decoded import DecodedImages, DecodedMasks
from normfold.models.data.splits import IndexArray, Splits
from normfold.models.errors import DataError


@dataclass(frozen=True)
class OwnFile:
    """Rows of one split, as read from a file of their own."""

    source: str
    raw: RawData


def join(main: RawData, splits: Splits, own: Mapping[str, OwnFile]) -> tuple[RawData, Splits]:
    """Append the rows of files of their own to those of the training file.

    Args:
        main: rows of the training file, which gives the classes and the unit of intensity.
        splits: of these rows; the parts of `own` are empty.
        own: by split, `validation` or `test`.

    Returns:
        All rows, and their splits.

    Raises:
        DataError: samples of another shape, kind or column, a class that the training file does not have, or a group
            that is in two files.
    """
    rows: dict[str, IndexArray] = {}
    joined = main
    for split, file in own.items():
        _check_alike(main, file)
        start = len(joined.x)
        joined = replace(joined, x=_join(joined.x, file.raw.x), y=_join(joined.y, _renumber(main, file)))
        rows[split] = np.arange(start, start + len(file.raw.x))
    _check_groups(main, own)
    return joined, replace(splits, **rows)


def _join(one: Array | DecodedImages | DecodedMasks, other: Array | DecodedImages | DecodedMasks) -> Any:
    if isinstance(one, DecodedImages) and isinstance(other, DecodedImages):
        return replace(one, files=one.files + other.files)
    if isinstance(one, DecodedMasks) and isinstance(other, DecodedMasks):
        return one.joined(other)
    return np.concatenate([one, other])


def _renumber(main: RawData, file: OwnFile) -> Array | DecodedMasks:
    """Return the targets of a file with the training file's numbers of the classes."""
    y, labels = file.raw.y, file.raw.labels
    if y.dtype.kind != "i":  # values, or labels that do not exclude each other
        if labels != main.labels:
            raise DataError(
                f"{file.source!r} has the labels {list(labels)}; the training data have {list(main.labels)}."
            )
        return y
    unknown = [name for name in labels if name not in main.labels]
    if unknown:
        raise DataError(
            f"{file.source!r} holds the class {unknown[0]!r}, which the training data do not have; their classes are: "
            f"{', '.join(main.labels)}."
        )
    numbers = np.array([main.labels.index(name) for name in labels], np.int64)
    if isinstance(y, DecodedMasks):
        return y.renumbered(numbers)
    return np.where(y >= 0, numbers[y], y)


def _check_alike(main: RawData, file: OwnFile) -> None:
    raw = file.raw
    for name, ours, theirs in (
        ("samples of shape", list(main.x.shape[1:]), list(raw.x.shape[1:])),
        ("targets of shape", list(main.y.shape[1:]), list(raw.y.shape[1:])),
        ("columns", main.columns, raw.columns),
        ("channels", main.channels, raw.channels),
    ):
        if ours != theirs:
            shown, wanted = (list(one) if one is not None else "none" for one in (theirs, ours))
            raise DataError(f"{file.source!r} has {name} {shown}; the training data have {wanted}.")
    if main.y.dtype != raw.y.dtype:
        raise DataError(f"{file.source!r} has targets for another task than the training data.")
    if main.x.dtype != raw.x.dtype and "u" in main.x.dtype.kind + raw.x.dtype.kind:
        raise DataError(
            f"{file.source!r} holds {raw.x.dtype}, the training data {main.x.dtype}: one value would be of two "
            "intensities."
        )


def _check_groups(main: RawData, own: Mapping[str, OwnFile]) -> None:
    """Check that no group is in two files."""
    seen = {} if main.groups is None else dict.fromkeys(main.groups.tolist(), "the training data")
    for file in own.values():
        groups = () if file.raw.groups is None else dict.fromkeys(file.raw.groups.tolist())
        for group in groups:
            if group in seen:
                raise DataError(f"Group {group!r} is in {file.source!r} and in {seen[group]}.")
        seen |= dict.fromkeys(groups, repr(file.source))

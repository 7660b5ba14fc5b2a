"""Where a data set comes from: `digits`, or a kind and a path, such as `csv:wine.csv`."""

from __future__ import annotations

import warnings
from pathlib import Path

from normfold.models.data.image_files.masks import has_masks
from normfold.models.errors import DataError, TrainingWarning

DIGITS = "digits"

SUFFIXES = {".npz": "npz", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
"""Kinds of files by the ends of their names."""

TABLES = ("csv", "parquet")
"""Kinds of tables."""

KINDS = ("npz", *TABLES, "images", "masks")

FORMS = "digits, npz:PATH, csv:PATH, parquet:PATH, images:DIR or masks:DIR"


def find_source(source: str) -> tuple[str, Path]:
    """Return the kind of a data set and its path; of `digits`, an empty path.

    A path without a kind is taken as what it is, by the end of its name; a folder, by what it holds.

    Args:
        source: as in DataConfig.

    Raises:
        DataError: neither a known form nor a file of a known kind or a folder.

    Warns:
        TrainingWarning: the kind is guessed.
    """
    if source == DIGITS:
        return DIGITS, Path()
    kind, colon, path = source.partition(":")
    if colon and path and kind in KINDS:
        return "masks" if kind == "images" and has_masks(Path(path)) else kind, Path(path)
    guessed = _guess(source)
    if guessed is None:
        raise DataError(f"Unknown data {source!r}; give {FORMS}.")
    warnings.warn(f"Data {source!r} are read as '{guessed}:{source}'.", TrainingWarning, stacklevel=3)
    return guessed, Path(source)


def _guess(source: str) -> str | None:
    suffix = Path(source).suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if not source or not Path(source).is_dir():
        return "images" if source.endswith("/") else None  # whose reader says that there is no such folder
    return "masks" if has_masks(Path(source)) else "images"

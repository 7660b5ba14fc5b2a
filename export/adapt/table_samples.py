"""Samples of a table, CSV or Parquet, for networks of rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from normfold.contract.arrays import Float64Array
from normfold.contract.errors import RawInputError
from normfold.contract.preprocess import RowPreprocessing
from normfold.contract.tables.preprocessing import TablePreprocessing
from normfold.contract.tables.table_file import TableFile, TableFileError, read_table_file
from normfold.contract.tables.values import Cell, number_of_text, show
from normfold.export.adapt.samples import SampleFormat, Samples, standardised_samples
from normfold.export.errors import SampleError


def table_samples(path: Path, expected: SampleFormat) -> Samples:
    """Read the rows of a table; columns that the card does not name, such as labels, are ignored.

    Args:
        path: of the file, .csv, .tsv or .parquet.
        expected: that of the network.

    Raises:
        SampleError: the file cannot be read, a column is missing, or a value does not fit; row and column are named.
        MissingPackageError: pyarrow is not installed, which reads Parquet.
    """
    preprocessing = expected.preprocessing
    if not isinstance(preprocessing, RowPreprocessing | TablePreprocessing):
        raise SampleError(f"{str(path)!r} is a table, and the network has no card that says how to read rows.")
    try:
        file = read_table_file(path)
    except TableFileError as error:
        raise SampleError(str(error)) from None
    names = preprocessing.columns if isinstance(preprocessing, RowPreprocessing) else preprocessing.names
    missing = [name for name in names if file.names.count(name.strip()) != 1]
    if missing:
        raise SampleError(f"{str(path)!r} must have one column {missing[0]!r}; its columns are {list(file.names)}.")
    columns = [file.columns[file.names.index(name.strip())] for name in names]
    rows, found = np.empty((len(file.row_numbers), len(names))), Counter[tuple[str, str]]()
    for place, cells in enumerate(zip(*columns, strict=True)):
        try:
            rows[place] = _read_row(preprocessing, cells, file, found)
        except RawInputError as error:
            raise SampleError(f"Row {file.row_numbers[place]} of {str(path)!r} cannot be used: {error}") from None
    return standardised_samples(rows, preprocessing, expected, *_describe_unknown(found, len(rows), path))


def _read_row(
    preprocessing: RowPreprocessing | TablePreprocessing,
    cells: tuple[Cell, ...],
    file: TableFile,
    found: Counter[tuple[str, str]],
) -> Float64Array:
    """Return one row as the preprocessing takes it, and count what is missing or unknown in it, by column."""
    texts = [cell for cell in cells if isinstance(cell, str)]
    is_csv = len(texts) == len(cells)
    if isinstance(preprocessing, TablePreprocessing):
        row = preprocessing.read_texts(texts, file.decimal_comma) if is_csv else preprocessing.read(cells)
        found.update(row.found)
        return row.values
    return preprocessing.decode([_number(cell, file.decimal_comma) for cell in cells])


def _describe_unknown(found: Counter[tuple[str, str]], rows: int, path: Path) -> list[str]:
    return [
        f"Column {column!r} of {str(path)!r} has a category unknown in training in {count} of {rows} rows."
        for (column, what), count in sorted(found.items())
        if what == "unknown"
    ]


def _number(cell: Cell, decimal_comma: bool) -> Cell:
    if not isinstance(cell, str):
        return cell
    number = number_of_text(cell, decimal_comma)
    if number is None:
        raise RawInputError(f"{show(cell).capitalize()} is not a number.")
    return number

"""Read a table: labels, and columns of known kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normfold.contract.arrays import Array, Float64Array
from normfold.contract.tables.table_file import TableFile, TableFileError, read_table_file
from normfold.contract.tables.values import MISSING_VALUES, Cell, is_missing, show, text_of
from normfold.models.data.tables.options import TableOptions
from normfold.models.data.tables.typed_columns import TypedColumn, type_column
from normfold.models.errors import DataError


@dataclass(frozen=True, eq=False)
class Table:
    """The columns of a table without its labels.

    Attributes:
        columns: of known kinds.
        ignored: names of the label column and of those that are left out.
        options: with which it was read.
    """

    columns: tuple[TypedColumn, ...]
    ignored: tuple[str, ...]
    options: TableOptions

    @property
    def missing_values(self) -> tuple[str, ...]:
        """Texts that mean a missing value."""
        return (*MISSING_VALUES, *self.options.missing_values)

    @property
    def is_plain(self) -> bool:
        """Whether all values are numbers, and none is missing or may be."""
        strict = self.options.missing in (None, "refuse")
        return strict and all(column.kind == "number" and not column.has_missing for column in self.columns)

    def values(self) -> Float64Array:
        """Return the values of all columns, (N, columns); see `TypedColumn`."""
        return np.stack([column.values for column in self.columns], axis=1)


def read_table(path: Path, kind: str, options: TableOptions) -> tuple[Table, Array]:
    """Read a table, and the values of its label column.

    Args:
        path: of the file.
        kind: csv or parquet.
        options: which columns, and what missing values become.

    Returns:
        The table, and the labels (N,): texts, booleans or numbers.

    Raises:
        DataError: the file cannot be read, has no such column, or a value is wrong; row, column and value are named.
        MissingPackageError: see `read_table_file`.
    """
    try:
        file = read_table_file(path, kind)
    except TableFileError as error:
        raise DataError(str(error)) from None
    _check_shape(file)
    label = _find_label(file, options)
    for column in (*options.drop, *options.categories):
        if column not in file.names:
            raise DataError(_no_column(file, column))
    left_out = (*dict.fromkeys((label, *options.drop)),)
    chosen = [index for index, name in enumerate(file.names) if name not in left_out]
    if not chosen:
        raise DataError(f"{str(path)!r} has no column beside the label and those that are left out.")
    labels = _read_labels(file, file.names.index(label))
    missing_values = (*MISSING_VALUES, *options.missing_values)
    columns = tuple(
        type_column(file, index, missing_values, file.names[index] in options.categories) for index in chosen
    )
    for column, index in zip(columns, chosen, strict=True):
        if options.missing == "refuse" and column.has_missing:
            row = int(np.flatnonzero(np.isnan(column.values))[0])
            raise DataError(
                f"Row {file.row_numbers[row]} of {str(path)!r} has {_show_missing(file.columns[index][row])} in column "
                f"{column.name!r}, and `missing` is refuse."
            )
    return Table(columns, left_out, options), labels


def _check_shape(file: TableFile) -> None:
    if len(file.names) < 2 or len(set(file.names)) != len(file.names):
        raise DataError(
            f"{str(file.path)!r} needs a header of at least two columns with different names, got {list(file.names)}."
        )
    if not len(file.row_numbers):
        raise DataError(f"{str(file.path)!r} has a header and no rows.")


def _find_label(file: TableFile, options: TableOptions) -> str:
    label = options.label_column
    if label is None:
        left = [name for name in file.names if name not in options.drop]
        if not left:
            raise DataError(f"{str(file.path)!r} has no column beside those that are left out.")
        return left[-1]
    if label not in file.names:
        raise DataError(_no_column(file, label))
    if label in options.drop:
        raise DataError(f"Column {label!r} is both the label column and left out with `drop`.")
    return label


def _no_column(file: TableFile, name: str) -> str:
    return f"{str(file.path)!r} has no column {name!r}; its columns are: {', '.join(file.names)}."


def _read_labels(file: TableFile, index: int) -> Array:
    """Return the values of the label column; every row must have one."""
    cells: Sequence[Cell] = file.columns[index]
    for row, cell in enumerate(cells):
        if is_missing(cell):
            shown = "no value" if cell is None or cell == "" else f"{cell!r}, which means a missing value,"
            raise DataError(
                f"Row {file.row_numbers[row]} of {str(file.path)!r} has {shown} in column {file.names[index]!r}, "
                "the label column; leave the row out."
            )
    if all(isinstance(cell, int | float) for cell in cells):
        labels = np.asarray(cells)
        whole = labels.dtype.kind == "f" and bool((labels == np.rint(labels)).all())
        return labels.astype(np.int64) if whole else labels
    return np.asarray([text_of(cell) for cell in cells])


def _show_missing(cell: Cell) -> str:
    return "no value" if cell is None or not str(cell).strip() else f"{show(cell)}, a missing value,"

"""Read a table: labels, and columns of known kinds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normfold.contract.arrays import Array, Float64Array
from normfold.contract.tables.table_file import TableFile, TableFileError, read_table_file
from normfold.contract.tables.values import MISSING_VALUES, Cell, is_missing, number_of_text, show, text_of
from normfold.models.data.tables.options import TableOptions
from normfold.models.data.tables.split_columns import read_groups, read_times
from normfold.models.data.tables.typed_columns import TypedColumn, type_column
from normfold.models.data.targets import label_columns
from normfold.models.errors import DataError


@dataclass(frozen=True, eq=False)
class Table:
    """The columns of a table without its labels.

    Attributes:
        columns: of known kinds.
        ignored: names of the label columns and of those that are left out.
        options: with which it was read.
        groups: of the rows, (N,), where there is a column of them.
        times: of the rows, (N,), where there is a column of them.
    """

    columns: tuple[TypedColumn, ...]
    ignored: tuple[str, ...]
    options: TableOptions
    groups: Array | None = None
    times: Array | None = None

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


def read_table(path: Path, kind: str, options: TableOptions) -> tuple[Table, Array, tuple[str, ...]]:
    """Read a table, and the texts of its label columns.

    Args:
        path: of the file.
        kind: csv or parquet.
        options: which columns, and what missing values become.

    Returns:
        The table, the labels as texts, (N, label columns), and the names of the label columns.

    Raises:
        DataError: the file cannot be read, has no such column, or a value is wrong; row, column and value are named.
        MissingPackageError: see `read_table_file`.
    """
    try:
        file = read_table_file(path, kind)
    except TableFileError as error:
        raise DataError(str(error)) from None
    _check_shape(file)
    labels = _find_labels(file, options)
    for column in (*options.drop, *options.categories):
        if column not in file.names:
            raise DataError(_no_column(file, column))
    groups = None if options.group_column is None else read_groups(file, options.group_column)
    times = None if options.time_column is None else read_times(file, options.time_column)
    for column in options.split_columns:
        if column in labels:
            raise DataError(f"Column {column!r} of {str(path)!r} is a label column; splits cannot follow it.")
    left_out = (*dict.fromkeys((*labels, *options.drop, *options.split_columns)),)
    chosen = [index for index, name in enumerate(file.names) if name not in left_out]
    if not chosen:
        raise DataError(f"{str(path)!r} has no column beside those of labels and those that are left out.")
    texts = np.stack([_read_labels(file, file.names.index(label)) for label in labels], axis=1)
    missing_values = (*MISSING_VALUES, *options.missing_values)
    columns = tuple(
        type_column(file, index, missing_values, file.names[index] in options.categories) for index in chosen
    )
    if options.missing == "refuse":
        for typed, index in zip(columns, chosen, strict=True):
            _check_complete(typed, file, index)
    return Table(columns, left_out, options, groups, times), texts, labels


def _check_complete(column: TypedColumn, file: TableFile, index: int) -> None:
    if not column.has_missing:
        return
    row = int(np.flatnonzero(np.isnan(column.values))[0])
    raise DataError(
        f"Row {file.row_numbers[row]} of {str(file.path)!r} has {_show_missing(file.columns[index][row])} in column "
        f"{column.name!r}, and `missing` is refuse."
    )


def _check_shape(file: TableFile) -> None:
    if len(file.names) < 2 or len(set(file.names)) != len(file.names):
        raise DataError(
            f"{str(file.path)!r} needs a header of at least two columns with different names, got {list(file.names)}."
        )
    if not len(file.row_numbers):
        raise DataError(f"{str(file.path)!r} has a header and no rows.")


def _find_labels(file: TableFile, options: TableOptions) -> tuple[str, ...]:
    if options.label_column is None:
        left = [name for name in file.names if name not in (*options.drop, *options.split_columns)]
        if not left:
            raise DataError(f"{str(file.path)!r} has no column beside those that are left out.")
        return (left[-1],)
    labels = label_columns(options.label_column, file.names)
    for label in labels:
        if label not in file.names:
            raise DataError(_no_column(file, label))
        if label in options.drop:
            raise DataError(f"Column {label!r} is both a label column and left out with `drop`.")
    return labels


def _no_column(file: TableFile, name: str) -> str:
    return f"{str(file.path)!r} has no column {name!r}; its columns are: {', '.join(file.names)}."


def _read_labels(file: TableFile, index: int) -> Array:
    """Return the texts of a label column, (N,); every row must have one."""
    cells = file.columns[index]
    for row, cell in enumerate(cells):
        if is_missing(cell):
            shown = "no value" if cell is None or not str(cell).strip() else f"{cell!r}, which means a missing value,"
            raise DataError(
                f"Row {file.row_numbers[row]} of {str(file.path)!r} has {shown} in column {file.names[index]!r}, "
                "a label column; leave the row out."
            )
    texts = [text_of(cell) for cell in cells]
    if file.decimal_comma and all(number_of_text(text, decimal_comma=True) is not None for text in texts):
        texts = [text.replace(",", ".") for text in texts]
    return np.asarray(texts)


def _show_missing(cell: Cell) -> str:
    return "no value" if cell is None or not str(cell).strip() else f"{show(cell)}, a missing value,"

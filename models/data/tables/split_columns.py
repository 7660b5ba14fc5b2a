"""Columns of a table that say how its rows are split, and are no inputs: groups and times."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from normfold.contract.arrays import Array
from normfold.contract.tables.table_file import TableFile
from normfold.contract.tables.values import Cell, is_missing, number_of_text, show, text_of
from normfold.models.errors import DataError


def read_groups(file: TableFile, name: str) -> Array:
    """Return the group of each row, (N,), texts.

    Raises:
        DataError: a row has none.
    """
    cells = _complete(file, name)
    return np.asarray([text_of(cell) for cell in cells])


def read_times(file: TableFile, name: str) -> Array:
    """Return the time of each row, (N,): float64, or datetime64 in microseconds, without time zones.

    Raises:
        DataError: a row has none, or one that is neither a number nor a date as ISO 8601 writes it; dates with and
            without a time zone do not compare either.
    """
    cells = _complete(file, name)
    numbers = [_number(cell, file) for cell in cells]
    if all(number is not None for number in numbers):
        return np.asarray(numbers, np.float64)
    dates = [_date(cell, row, file, name) for row, cell in enumerate(cells)]
    zoned = [date.tzinfo is not None for date in dates]
    if any(zoned) and not all(zoned):
        row = zoned.index(not zoned[0])
        raise DataError(
            f"Row {file.row_numbers[row]} of {str(file.path)!r} has a time with a zone, others none, in column "
            f"{name!r}; they cannot be compared."
        )
    if all(zoned):
        return np.asarray([date.timestamp() for date in dates])
    return np.asarray(dates, "M8[us]")


def _complete(file: TableFile, name: str) -> list[Cell]:
    """Return the cells of a column, none of which is missing."""
    if name not in file.names:
        raise DataError(f"{str(file.path)!r} has no column {name!r}; its columns are: {', '.join(file.names)}.")
    cells = list(file.columns[file.names.index(name)])
    for row, cell in enumerate(cells):
        if is_missing(cell):
            raise DataError(f"Row {file.row_numbers[row]} of {str(file.path)!r} has no value in column {name!r}.")
    return cells


def _number(cell: Cell, file: TableFile) -> float | None:
    if isinstance(cell, str):
        number = number_of_text(cell, file.decimal_comma)
        return number if number is not None and np.isfinite(number) else None
    return float(cell) if isinstance(cell, int | float) and not isinstance(cell, bool) else None


def _date(cell: Cell, row: int, file: TableFile, name: str) -> datetime:
    if isinstance(cell, datetime):
        return cell
    try:
        return datetime.fromisoformat(str(cell).strip())
    except ValueError:
        raise DataError(
            f"Row {file.row_numbers[row]} of {str(file.path)!r} has {show(cell)} in column {name!r}, which is neither "
            "a number nor a date such as 2026-01-31 or 2026-01-31T12:00."
        ) from None

"""Files of tables: CSV with a comma, semicolon, tab or bar, and Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from normfold.contract.errors import InputError, MissingPackageError, first_line
from normfold.contract.tables.values import Cell

SUFFIXES = (".csv", ".tsv", ".parquet")
"""Of the files that are read as tables."""

_DELIMITERS = ",;\t|"
_SNIFFED_LINES = 20


class TableFileError(InputError):
    """A file is not a readable table."""


@dataclass(frozen=True, eq=False)
class TableFile:
    """The cells of a table.

    Attributes:
        path: of the file.
        names: of the columns.
        columns: the cells of each: texts of a CSV file, values of Parquet.
        row_numbers: of each row, for messages: the line of a CSV file, the row of Parquet, from 1.
        decimal_comma: numbers may be written as 3,5, since the delimiter is not a comma.
    """

    path: Path
    names: tuple[str, ...]
    columns: tuple[Sequence[Cell], ...]
    row_numbers: Sequence[int]
    decimal_comma: bool = False


def read_table_file(path: Path, kind: str | None = None) -> TableFile:
    """Read all cells of a table.

    Args:
        path: of the file.
        kind: csv or parquet; None to decide by the suffix.

    Raises:
        TableFileError: the file cannot be read, or a row has another length than the header.
        MissingPackageError: pyarrow is not installed, which reads Parquet.
    """
    if (kind or path.suffix.lower()[1:]) == "parquet":
        return _read_parquet(path)
    return _read_csv(path)


def _read_csv(path: Path) -> TableFile:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            delimiter = _find_delimiter(list(islice(file, _SNIFFED_LINES)))
            file.seek(0)
            lines = _lines(csv.reader(file, delimiter=delimiter))
            _, header = next(lines, (0, []))
            names = _header_names(header)
            numbers: list[int] = []
            rows: list[list[str]] = []
            for number, cells in lines:
                if len(cells) != len(header):
                    raise TableFileError(
                        f"Row {number} of {str(path)!r} has {len(cells)} values, the header {len(header)}."
                    )
                numbers.append(number)
                rows.append(cells)
    except OSError as error:
        raise TableFileError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableFileError(f"{str(path)!r} is not a comma-separated UTF-8 table: {error}.") from None
    columns = tuple(zip(*rows, strict=True)) if rows else ((),) * len(names)
    return TableFile(path, names, columns, numbers, decimal_comma=delimiter != ",")


def _lines(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line, from 1, and its cells; blank lines are left out."""
    for cells in reader:
        if cells:
            yield reader.line_num, cells


def _find_delimiter(lines: Sequence[str]) -> str:
    """Return the delimiter that gives all lines the same number of cells, and the most; else the header the most.

    The last line is left out where there are others: a cell with a line break may go on after it.
    """
    sizes, headers = {}, {",": 1}
    for delimiter in _DELIMITERS:
        try:
            rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:
            continue
        if not rows:
            continue
        headers[delimiter] = len(rows[0])
        lengths = {len(row) for row in (rows[:-1] if len(rows) > 2 else rows)}
        if len(lengths) == 1 and (size := lengths.pop()) > 1:
            sizes[delimiter] = size
    found = sizes or headers
    return max(found, key=lambda delimiter: found[delimiter])


def _header_names(header: Sequence[str]) -> tuple[str, ...]:
    """Return the names of columns; one without a name, as pandas writes its index, is named as pandas reads it."""
    return tuple(name.strip() or f"Unnamed: {index}" for index, name in enumerate(header))


def _read_parquet(path: Path) -> TableFile:
    try:
        import pyarrow as pa  # takes a fifth of a second
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingPackageError("pyarrow", "parquet", "Parquet") from None
    try:
        with path.open("rb") as file:
            table = pq.read_table(file)
        names = tuple(map(str, table.column_names))
        columns = tuple(_parquet_cells(table.column(index), names[index], path) for index in range(len(names)))
    except OSError as error:
        if isinstance(error, pa.ArrowException):
            raise TableFileError(f"{str(path)!r} is not a Parquet file: {first_line(error).rstrip('.')}.") from None
        raise TableFileError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from None
    except pa.ArrowException as error:
        raise TableFileError(f"{str(path)!r} is not a Parquet file: {first_line(error).rstrip('.')}.") from None
    return TableFile(path, names, columns, range(1, table.num_rows + 1))


def _parquet_cells(column: Any, name: str, path: Path) -> list[Cell]:
    """Return the values of a column in Python's types."""
    cells = column.to_pylist()
    first = next((cell for cell in cells if cell is not None), None)
    if isinstance(first, Decimal):
        return [None if cell is None else float(cell) for cell in cells]
    if isinstance(first, list | dict | bytes | tuple):
        raise TableFileError(
            f"Column {name!r} of {str(path)!r} is of type {column.type}; a table holds numbers, texts and booleans."
        )
    result: list[Cell] = cells
    return result

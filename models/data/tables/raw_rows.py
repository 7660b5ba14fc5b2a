"""Rows and labels of a table, as data sets take them."""

from __future__ import annotations

from pathlib import Path

from normfold.models.data.classes import number_classes
from normfold.models.data.files import RawData
from normfold.models.data.tables.encoding import warn_of_row_numbers
from normfold.models.data.tables.options import TableOptions
from normfold.models.data.tables.read_table import read_table


def read_rows(path: Path, kind: str, options: TableOptions) -> RawData:
    """Read a table with a header and a label column.

    Args:
        path: of the file.
        kind: csv or parquet.
        options: which columns, and what missing values become.

    Raises:
        DataError, MissingPackageError: see `read_table`.

    Warns:
        TrainingWarning: a column numbers the rows.
    """
    table, values = read_table(path, kind, options)
    warn_of_row_numbers(table)
    numbers, labels = number_classes(values, None, path)
    return RawData(table.values(), numbers, labels, columns=tuple(column.name for column in table.columns), table=table)

"""Rows and labels of a table, as data sets take them."""

from __future__ import annotations

from pathlib import Path

from normfold.models.data.files import RawData
from normfold.models.data.tables.encoding import warn_of_row_numbers
from normfold.models.data.tables.options import TableOptions
from normfold.models.data.tables.read_table import read_table
from normfold.models.data.targets import BY_VALUES, TargetOptions, read_text_targets


def read_rows(path: Path, kind: str, options: TableOptions, targets: TargetOptions = BY_VALUES) -> RawData:
    """Read a table with a header and label columns.

    Args:
        path: of the file.
        kind: csv or parquet.
        options: which columns, and what missing values become.
        targets: task.

    Raises:
        DataError, MissingPackageError: see `read_table` and `read_text_targets`.

    Warns:
        TrainingWarning: a column numbers the rows.
    """
    table, texts, names = read_table(path, kind, options)
    warn_of_row_numbers(table)
    y, labels = read_text_targets(texts, names, path, targets)
    columns = tuple(column.name for column in table.columns)
    return RawData(table.values(), y, labels, columns=columns, table=table, groups=table.groups, times=table.times)

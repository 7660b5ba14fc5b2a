"""Learn the encoding of a table from its training rows, and encode tables with it."""

from __future__ import annotations

import warnings

import numpy as np

from normfold.contract.arrays import Float64Array
from normfold.contract.preprocess import Preprocessing, RowPreprocessing
from normfold.contract.tables.columns import BooleanColumn, CategoryColumn, NumberColumn, TableColumn
from normfold.contract.tables.preprocessing import TablePreprocessing
from normfold.models.data.splits import IndexArray
from normfold.models.data.tables.options import Missing
from normfold.models.data.tables.read_table import Table
from normfold.models.data.tables.typed_columns import TypedColumn
from normfold.models.errors import DataError, TrainingWarning

MAX_CATEGORIES = 100
"""Categories with an input of their own; rarer ones share one."""

MIN_NAMES = 10
"""From so many different texts on, in more than half of the rows, a column is taken for names or ids."""


def learn_encoding(table: Table, train: IndexArray) -> TablePreprocessing:
    """Return the encoding of a table, with mean, standard deviation and categories of its training rows.

    Args:
        table: all rows.
        train: indices of the training rows.

    Raises:
        DataError: a column has no value in the training rows.

    Warns:
        TrainingWarning: a column is constant in the training rows, or holds names or ids.
    """
    columns = [_learn_column(column, train, table.options.missing) for column in table.columns]
    return TablePreprocessing(columns=tuple(columns), ignored=table.ignored, missing_values=table.missing_values)


def encode(table: Table, preprocessing: Preprocessing) -> Float64Array:
    """Return raw rows as a preprocessing takes them: (N, columns), float64.

    Args:
        table: all rows.
        preprocessing: learned from this table, or from another with the same columns.

    Raises:
        DataError: a column of the preprocessing is not in the table, of another kind, or lacks values that it needs.
    """
    if not isinstance(preprocessing, TablePreprocessing | RowPreprocessing):
        raise DataError("The network does not take the rows of a table.")
    given = {column.name: column for column in table.columns}
    if isinstance(preprocessing, RowPreprocessing):
        return np.stack([_plain_values(given, name) for name in preprocessing.columns], axis=1)
    return np.stack([_encode_column(given, column) for column in preprocessing.columns], axis=1)


def warn_of_row_numbers(table: Table) -> None:
    """Warn of columns that number the rows.

    Warns:
        TrainingWarning: whole numbers without a gap, each once.
    """
    for column in table.columns:
        values = column.values
        if column.kind != "number" or column.has_missing or len(values) < 2 * MIN_NAMES:
            continue
        if np.array_equal(np.sort(values), np.arange(values.min(), values.min() + len(values))):
            _warn(f"Column {column.name!r} numbers the rows, as ids do", column.name)


def _learn_column(column: TypedColumn, train: IndexArray, missing: Missing | None) -> TableColumn:
    rows = column.values[train]
    values = rows[~np.isnan(rows)]
    if not len(values):
        raise DataError(
            f"Column {column.name!r} has no value in the training split; leave it out with `drop` {column.name}."
        )
    fraction = (len(rows) - len(values)) / len(rows)
    if column.kind == "category":
        return _learn_category(column, values, fraction, missing)
    mean, std = float(values.mean()), float(values.std())
    constant = bool(values.min() == values.max() or not std > 0)
    if constant:
        _warn_of_constant(column.name, fraction > 0)
        std = 1.0
    kind = NumberColumn if column.kind == "number" else BooleanColumn
    return kind(
        name=column.name,
        missing_fraction=fraction,
        mean=mean,
        std=std,
        constant=constant,
        missing="refuse" if missing == "refuse" else "mean",
        indicator=missing == "category" and fraction > 0,
    )


def _learn_category(
    column: TypedColumn, values: Float64Array, fraction: float, missing: Missing | None
) -> CategoryColumn:
    """Return the column with the categories of its training rows; values are indices into the texts, none missing."""
    codes, counts = np.unique(values.astype(np.int64), return_counts=True)
    if len(codes) == 1:
        _warn_of_constant(column.name, fraction > 0)
    if len(codes) > MAX_CATEGORIES or (len(codes) >= MIN_NAMES and 2 * len(codes) > len(values)):
        _warn(f"Column {column.name!r} holds {len(codes)} different texts, as names and ids do", column.name)
    kept = np.sort(np.argsort(-counts, kind="stable")[:MAX_CATEGORIES])
    frequencies = counts[kept] / len(values)
    other = len(kept) < len(codes)
    rest = [1 - float(frequencies.sum())] if other else []
    no_missing: Missing | str = "zeros" if missing in (None, "category") else missing
    return CategoryColumn(
        name=column.name,
        missing_fraction=fraction,
        categories=tuple(column.texts[code] for code in codes[kept]),
        other=other,
        frequencies=(*frequencies.tolist(), *rest),
        missing="category" if fraction > 0 and missing in (None, "category") else no_missing,
    )


def _encode_column(given: dict[str, TypedColumn], column: TableColumn) -> Float64Array:
    found = _find(given, column.name)
    if column.refuses_missing and found.has_missing:
        raise DataError(f"Column {column.name!r} lacks values, which the network was trained to refuse.")
    if isinstance(column, CategoryColumn):
        values, places = np.unique(found.values, return_inverse=True)  # one NaN for all
        read = [np.nan if np.isnan(value) else _read_category(column, found, value) for value in values.tolist()]
        return np.array(read)[places]
    if found.kind == "category":
        raise DataError(f"Column {column.name!r} is a {column.kind} in training, and holds texts here.")
    return found.values


def _read_category(column: CategoryColumn, found: TypedColumn, value: float) -> float:
    """Return the index of a category; in another table its texts may all look like numbers or booleans."""
    if found.kind == "category":
        return column.read_text(found.texts[int(value)])
    return column.read(bool(value) if found.kind == "boolean" else value)


def _plain_values(given: dict[str, TypedColumn], name: str) -> Float64Array:
    found = _find(given, name)
    if found.kind != "number" or found.has_missing:
        raise DataError(f"Column {name!r} must hold a number in every row, as in training.")
    return found.values


def _find(given: dict[str, TypedColumn], name: str) -> TypedColumn:
    if name not in given:
        raise DataError(f"The table has no column {name!r}; its columns are: {', '.join(given)}.")
    return given[name]


def _warn_of_constant(name: str, may_miss: bool) -> None:
    rest = "but for missing values" if may_miss else "it carries no information, and is not scaled"
    warnings.warn(f"Column {name!r} is constant in the training split: {rest}.", TrainingWarning, stacklevel=6)


def _warn(sentence: str, name: str) -> None:
    warnings.warn(
        f"{sentence}: the network learns nothing from it that holds for other rows; leave it out with `drop` {name}.",
        TrainingWarning,
        stacklevel=5,
    )

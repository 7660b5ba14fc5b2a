"""The kinds of a table's columns, found from all of their values: numbers, booleans, categories.

A column that mixes numbers with a few texts, and one of dates, are errors that say what to do: as categories, which
they would be otherwise, the network could learn little from them, and nobody would know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from normfold.contract.arrays import Float64Array
from normfold.contract.tables.table_file import TableFile
from normfold.contract.tables.values import (
    FLOAT32_MAX,
    Cell,
    boolean_of_text,
    is_date,
    is_missing,
    number_of_text,
    show,
    text_of,
)
from normfold.models.errors import DataError

MAX_NUMBER_FRACTION = 0.5
"""A column of texts is an error where more of its different values are numbers."""


@dataclass(frozen=True, eq=False)
class TypedColumn:
    """A column whose values are of one kind.

    Attributes:
        name: of the column.
        kind: number, boolean or category.
        values: (N,), float64: numbers, 0 and 1, or indices into `texts`; NaN is missing.
        texts: of categories, in order; empty for other kinds.
    """

    name: str
    kind: Literal["number", "boolean", "category"]
    values: Float64Array
    texts: tuple[str, ...] = ()

    @property
    def has_missing(self) -> bool:
        """Whether a value is missing."""
        return bool(np.isnan(self.values).any())


def type_column(file: TableFile, index: int, missing_values: tuple[str, ...], as_category: bool) -> TypedColumn:
    """Find the kind of a column and return its values.

    Args:
        file: the table.
        index: of the column.
        missing_values: texts that mean a missing value.
        as_category: take any values as categories.

    Raises:
        DataError: the column is empty, holds dates, numbers beside texts, or a number that is not finite in float32.
    """
    name, cells = file.names[index], file.columns[index]
    present = np.array([not is_missing(cell, missing_values) for cell in cells])
    rows = np.flatnonzero(present).tolist()
    found = [cells[row] for row in rows]
    if not found:
        raise DataError(f"Column {name!r} of {str(file.path)!r} holds no value; leave it out with `drop` {name}.")
    if as_category:
        return _categories(name, found, present)
    if all(_is_boolean(cell) for cell in found):
        booleans = [cell if isinstance(cell, bool) else boolean_of_text(str(cell)) for cell in found]
        return TypedColumn(name, "boolean", _fill(present, [float(bool(value)) for value in booleans]))
    numbers = [_number(cell, file.decimal_comma) for cell in found]
    not_numbers = [place for place, number in enumerate(numbers) if number is None]
    if not not_numbers:
        return TypedColumn(name, "number", _check_numbers(_fill(present, numbers), cells, name, file))
    if all(is_date(cell) for cell in set(found)):
        raise DataError(
            f"Column {name!r} of {str(file.path)!r} holds dates or times, such as {str(found[0])!r}; leave it out with "
            f"`drop` {name}, or make numbers of it, such as days since a date."
        )
    different = {text_of(cell) for cell in found}
    texts = {text_of(found[place]) for place in not_numbers}
    if len(different - texts) > MAX_NUMBER_FRACTION * len(different):
        where = f"Row {file.row_numbers[rows[not_numbers[0]]]} of {str(file.path)!r}"
        raise DataError(
            f"{where} has {show(found[not_numbers[0]])} in column {name!r}, where most values are numbers; correct it, "
            f"or say what it is: a missing value with `missing_value`, a category with `category` {name}."
        )
    return _categories(name, found, present)


def _is_boolean(cell: Cell) -> bool:
    return isinstance(cell, bool) or (isinstance(cell, str) and boolean_of_text(cell) is not None)


def _number(cell: Cell, decimal_comma: bool) -> float | None:
    if isinstance(cell, str):
        return number_of_text(cell, decimal_comma)
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return None
    return float(cell)


def _fill(present: npt.NDArray[np.bool_], values: Sequence[float | None]) -> Float64Array:
    """Return an array of all rows, with NaN where a value is missing."""
    filled = np.full(len(present), np.nan)
    filled[present] = np.array(values, np.float64)
    return filled


def _check_numbers(values: Float64Array, cells: Sequence[Cell], name: str, file: TableFile) -> Float64Array:
    wrong = np.flatnonzero(np.abs(values) > FLOAT32_MAX)
    if len(wrong):
        raise DataError(
            f"Row {file.row_numbers[wrong[0]]} of {str(file.path)!r} has {str(cells[wrong[0]])!r} in column {name!r}, "
            "which is not a finite float32 number."
        )
    return values


def _categories(name: str, found: Sequence[Cell], present: npt.NDArray[np.bool_]) -> TypedColumn:
    texts = [text_of(cell) for cell in found]
    index = {text: place for place, text in enumerate(sorted(set(texts)))}
    return TypedColumn(name, "category", _fill(present, [index[text] for text in texts]), tuple(index))

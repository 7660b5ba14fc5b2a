"""Values in the cells of a table: which are missing, and which are numbers, booleans or dates."""

from __future__ import annotations

import math
import re
from datetime import date, datetime, time, timedelta

import numpy as np

from normfold.contract.errors import RawInputError

Cell = str | int | float | bool | date | time | timedelta | None
"""A value of a table: text in a CSV file, any of these in Parquet; a datetime is a date."""

FLOAT32_MAX = float(np.finfo(np.float32).max)
"""Largest finite value of float32, the dtype of networks' inputs."""

MISSING_VALUES = (
    *("", "?", "NA", "na", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "-nan", "-NaN"),
    *("null", "NULL", "Null"),
)
"""Texts that mean a missing value, as pandas reads them, and "?" of the UCI repository. "None" is not among them: it is
a category in many tables."""

_BOOLEANS = {"true": True, "false": False}
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(e[+-]?\d+)?", re.IGNORECASE)
_DATE = re.compile(
    r"\d{4}([-/])\d{1,2}\1\d{1,2}([ T].*)?|\d{1,2}([./-])\d{1,2}\3\d{2,4}( .*)?|\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?"
)


def is_missing(cell: object, missing_values: tuple[str, ...] = MISSING_VALUES) -> bool:
    """Return whether a cell has no value: None, NaN, or a text that means this."""
    if isinstance(cell, str):
        return cell.strip() in missing_values
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def number_of_text(text: str, decimal_comma: bool = False) -> float | None:
    """Return the number that a text is, or None.

    Args:
        text: Python's notation, without underscores.
        decimal_comma: "3,5" is a number too.
    """
    if decimal_comma and _DECIMAL_COMMA.fullmatch(text.strip()):
        text = text.replace(",", ".")
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def boolean_of_text(text: str) -> bool | None:
    """Return the boolean that a text is, in capitals or not; None for any other text."""
    return _BOOLEANS.get(text.strip().lower())


def is_date(cell: object) -> bool:
    """Return whether a cell is a date, a time of day, or a duration; texts by their form alone."""
    if isinstance(cell, str):
        return _DATE.fullmatch(cell.strip()) is not None
    return isinstance(cell, date | time | timedelta)


def text_of(cell: Cell) -> str:
    """Return the text of a category: 3 and 3.0 are both "3", and booleans are as JSON writes them."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime):
        return cell.isoformat(" ")
    return str(cell).strip()


def check_finite(value: float, column: str) -> float:
    """Return a number that is finite in float32.

    Raises:
        RawInputError: it is not; the column is named.
    """
    if not abs(value) <= FLOAT32_MAX:
        raise RawInputError(f"Column {column!r} has {value:g}, which is not a finite float32 number.")
    return value


def show(value: object) -> str:
    """Return a value in a few words and shortened, for an error message."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value) if isinstance(value, str) else str(value)
    shortened = text if len(text) <= 40 else f"{text[:37]}…"
    return f"the text {shortened}" if isinstance(value, str) else shortened

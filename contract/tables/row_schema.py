"""The JSON Schema of a raw row: each column with its kind."""

from __future__ import annotations

from typing import Any

from normfold.contract.tables.columns import BooleanColumn, CategoryColumn, TableColumn
from normfold.contract.tables.preprocessing import TablePreprocessing


def row_schema(preprocessing: TablePreprocessing) -> dict[str, Any]:
    """Return the JSON Schema of a row as an object by column; a list of the values in this order is a row too."""
    required = [column.name for column in preprocessing.columns if column.refuses_missing]
    return {
        "type": "object",
        "properties": {column.name: _column_schema(column) for column in preprocessing.columns},
        "required": required,
    }


def _column_schema(column: TableColumn) -> dict[str, Any]:
    if isinstance(column, CategoryColumn):
        kind, what = ["string", "number", "boolean"], {"examples": list(column.categories)}
        described = "A category; another one than these is answered with a note."
    elif isinstance(column, BooleanColumn):
        kind, what, described = ["boolean"], {}, "True or false."
    else:
        kind, what, described = ["number"], {}, f"A number; in training {column.mean:.6g} ± {column.std:.6g}."
    if not column.refuses_missing:
        kind.append("null")
    return {"type": kind[0] if len(kind) == 1 else kind, **what, "description": described}

"""From a raw row of a table, with texts and missing values, to the network's tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from normfold.contract.arrays import Array, Float32Array, Float64Array
from normfold.contract.errors import RawInputError
from normfold.contract.tables.columns import MISSING, OTHER, CategoryColumn, TableColumn
from normfold.contract.tables.values import MISSING_VALUES, is_missing, show

FOUND = ("missing", "unknown")
"""Words for values that the training rows do not have: none where they had one, and an unknown category."""


@dataclass(frozen=True)
class ColumnNote:
    """A value of a row that the network knows nothing about, though it answers."""

    column: str
    note: str
    """One sentence: what was found, and what the network got in its place."""


@dataclass(frozen=True, eq=False)
class TableRow:
    """A row as it is read.

    Attributes:
        values: (columns,), float64; see `contract.tables.columns`.
        found: column and one of FOUND, for values that are missing or unknown.
        notes: about those that the training rows did not have.
    """

    values: Float64Array
    found: tuple[tuple[str, str], ...]
    notes: tuple[ColumnNote, ...]


class TablePreprocessing(BaseModel):
    """Preprocessing of table rows with texts or missing values: float32 tensors of shape (inputs,)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["table"] = "table"
    columns: tuple[TableColumn, ...] = Field(min_length=1, description="In the order of their inputs.")
    ignored: tuple[str, ...] = Field(
        default=(), description="Further columns of the training data, which a row may have: labels, dropped columns."
    )
    missing_values: tuple[str, ...] = Field(
        default=MISSING_VALUES, description="Texts that mean a missing value, in every column."
    )

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        names = [*self.names, *self.ignored]
        if len(set(names)) != len(names):
            raise ValueError("column names repeat")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that a row has."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        """Names of the network's inputs, in order."""
        return tuple(name for column in self.columns for name in column.input_names)

    @cached_property
    def input_columns(self) -> tuple[int, ...]:
        """Index of the column that each of the network's inputs is of."""
        return tuple(index for index, column in enumerate(self.columns) for _ in column.input_names)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample of the network: (inputs,)."""
        return (len(self.input_names),)

    def decode(self, instance: Any) -> Float64Array:
        """Read one row, as `read` does.

        Returns:
            float64 of shape (columns,): numbers, and indices of categories; NaN is missing.

        Raises:
            RawInputError: see `read`.
        """
        return self.read(instance).values

    def read(self, instance: Any) -> TableRow:
        """Read one row, given as a list in column order or as an object keyed by column.

        A key that is left out, null, and a text of `missing_values` are missing values.

        Raises:
            RawInputError: a column is unknown, a value is of another kind than its column, or missing where the column
                refuses this; the column and the value are named.
        """
        if isinstance(instance, Mapping):
            unknown = [name for name in instance if name not in self.names and name not in self.ignored]
            if unknown:
                raise RawInputError(f"The row has unknown columns {unknown}; it takes {list(self.names)}.")
            return self._read([instance.get(name) for name in self.names], lambda column, value: column.read(value))
        if not isinstance(instance, list | tuple):
            raise RawInputError(f"Expected a row as an object by column or as a list of values, not {show(instance)}.")
        if len(instance) != len(self.columns):
            raise RawInputError(f"Expected a row of {len(self.columns)} values, got {len(instance)}.")
        return self._read(instance, lambda column, value: column.read(value))

    def read_texts(self, texts: Sequence[str], decimal_comma: bool = False) -> TableRow:
        """Read a row of a CSV file, with the texts of the columns in order.

        Raises:
            RawInputError: as `read`.
        """
        return self._read(texts, lambda column, text: column.read_text(text, decimal_comma))

    def standardise(self, raw: Array) -> Float32Array:
        """Return the network's tensor; see `contract.tables.columns`.

        Args:
            raw: (..., columns), as `decode` returns it.

        Returns:
            float32 of shape (..., inputs); computed in float64, and rounded once.
        """
        raw = np.asarray(raw, np.float64)
        parts = [column.inputs(raw[..., index]).astype(np.float32) for index, column in enumerate(self.columns)]
        return np.concatenate(parts, axis=-1)

    def _read(self, cells: Sequence[Any], read: Callable[[Any, Any], float]) -> TableRow:
        values, found, notes = np.empty(len(cells)), [], []
        for index, (column, cell) in enumerate(zip(self.columns, cells, strict=True)):
            if is_missing(cell, self.missing_values):
                _check_may_miss(column)
                values[index] = MISSING
                found.append((column.name, "missing"))
                if not column.missing_fraction:
                    notes.append(ColumnNote(column.name, _describe_missing(column)))
                continue
            values[index] = read(column, cell)
            if isinstance(column, CategoryColumn) and values[index] == OTHER:
                found.append((column.name, "unknown"))
                notes.append(ColumnNote(column.name, _describe_unknown(column, cell)))
        return TableRow(values, tuple(found), tuple(notes))


def _check_may_miss(column: TableColumn) -> None:
    if column.refuses_missing:
        raise RawInputError(f"Column {column.name!r} has no value; the network was trained to refuse this.")


def _describe_missing(column: TableColumn) -> str:
    becomes = "0 in every input" if isinstance(column, CategoryColumn) else f"the mean of training, {column.mean:g}"
    if column.missing == "mean" and isinstance(column, CategoryColumn):
        becomes = "the frequencies of training's categories"
    return f"Column {column.name!r} has no value, and had one in every training row; the network gets {becomes}."


def _describe_unknown(column: CategoryColumn, cell: Any) -> str:
    becomes = "the input of rare categories" if column.other else "0 in every input"
    known = column.list_categories()
    return f"Column {column.name!r} has {show(cell)}, which is none of {known}; the network gets {becomes}."

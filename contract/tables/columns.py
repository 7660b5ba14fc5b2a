"""Columns of a table, and their encoding as the network's inputs.

    number     (value - mean) / std                                       1 input, and 1 that says "missing"
    boolean    the same of 0 for false and 1 for true                     likewise
    category   1 in the input of its category, 0 in the others            1 input a category, and "other", and "missing"

A row is kept as one float64 number a column, from which the inputs are made: the number, or the index of the category.
NaN is a missing value, OTHER a category that has no input of its own. Mean, standard deviation and categories are those
of the training split. An input for "missing" or "other" exists only where training rows needed it, since the network
has learned nothing about an input that was 0 in every row.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from normfold.contract.arrays import Float64Array
from normfold.contract.errors import RawInputError
from normfold.contract.tables.values import boolean_of_text, check_finite, number_of_text, show, text_of

OTHER = -1.0
"""In place of the index of a category that has no input of its own."""

MISSING = math.nan
"""In place of a value that is missing."""

_MAX_SHOWN = 12
"""Categories that a sentence lists."""


class _Column(BaseModel):
    """What all kinds of columns have."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    missing_fraction: float = Field(
        default=0.0, ge=0, le=1, description="Fraction of the training rows without a value."
    )

    @property
    @abstractmethod
    def input_names(self) -> tuple[str, ...]:
        """Names of the network's inputs that the column becomes."""

    @property
    @abstractmethod
    def refuses_missing(self) -> bool:
        """Whether every row must have a value."""

    @abstractmethod
    def read(self, value: Any) -> float:
        """Return the number that stands for a value of JSON or Parquet, which is not missing.

        Raises:
            RawInputError: it is of another kind.
        """

    @abstractmethod
    def read_text(self, text: str, decimal_comma: bool = False) -> float:
        """Return the number that stands for a cell of a CSV file, which is not missing.

        Raises:
            RawInputError: it is of another kind.
        """

    @abstractmethod
    def inputs(self, values: Float64Array) -> Float64Array:
        """Return the network's inputs: (..., inputs) of values (...,)."""


class _Measured(_Column):
    """A column of one number, which is standardised."""

    mean: float = Field(description="Over the training rows with a value.")
    std: float = Field(gt=0, description="Over the training rows with a value.")
    constant: bool = Field(default=False, description="The training rows hold one value, which is not scaled.")
    missing: Literal["mean", "refuse"] = Field(description="What a missing value becomes: the mean, or an error.")
    indicator: bool = Field(default=False, description="A further input is 1 where the value is missing, otherwise 0.")

    @property
    def input_names(self) -> tuple[str, ...]:
        """The column, and where it is missing."""
        return (self.name, f"{self.name} missing") if self.indicator else (self.name,)

    @property
    def refuses_missing(self) -> bool:
        """Whether every row must have a value."""
        return self.missing == "refuse"

    def inputs(self, values: Float64Array) -> Float64Array:
        """Return (value - mean) / std, 0 for missing values, and with an indicator where they are missing."""
        absent = np.isnan(values)
        standardised = np.where(absent, 0.0, (values - self.mean) / self.std)
        return np.stack([standardised, absent] if self.indicator else [standardised], axis=-1)


class NumberColumn(_Measured):
    """A column of numbers."""

    kind: Literal["number"] = "number"

    def read(self, value: Any) -> float:
        """Return a number that is finite in float32."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RawInputError(f"Column {self.name!r} takes numbers, not {show(value)}.")
        return _finite(value, self.name)

    def read_text(self, text: str, decimal_comma: bool = False) -> float:
        """Return the number that a text is."""
        number = number_of_text(text, decimal_comma)
        if number is None:
            raise RawInputError(f"Column {self.name!r} takes numbers, not {show(text)}.")
        return _finite(number, self.name)


class BooleanColumn(_Measured):
    """A column of true and false."""

    kind: Literal["boolean"] = "boolean"

    def read(self, value: Any) -> float:
        """Return 0 for false and 1 for true; numbers 0 and 1 and texts are booleans too."""
        if isinstance(value, str):
            return self.read_text(value)
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise RawInputError(f"Column {self.name!r} takes true or false, not {show(value)}.")
        return float(value)

    def read_text(self, text: str, decimal_comma: bool = False) -> float:  # noqa: ARG002 - as of the other kinds
        """Return 0 for false and 1 for true."""
        value = boolean_of_text(text)
        if value is None and text.strip() not in ("0", "1"):
            raise RawInputError(f"Column {self.name!r} takes true or false, not {show(text)}.")
        return float(text) if value is None else float(value)


class CategoryColumn(_Column):
    """A column of texts, one input for each of them."""

    kind: Literal["category"] = "category"
    categories: tuple[str, ...] = Field(min_length=1, description="Texts of the training split, in order.")
    other: bool = Field(
        default=False, description="Rare categories of the training split, and unknown ones, share an input."
    )
    frequencies: tuple[float, ...] = Field(
        description="Fraction of each category, and of the others, in the training rows with a value."
    )
    missing: Literal["category", "mean", "zeros", "refuse"] = Field(
        description="What a missing value becomes: an input of its own, the frequencies, 0 in every input, or an error."
    )

    @model_validator(mode="after")
    def _check_categories(self) -> Self:
        if len(set(self.categories)) != len(self.categories):
            raise ValueError("categories repeat")
        if len(self.frequencies) != len(self.categories) + self.other:
            raise ValueError(f"{len(self.frequencies)} frequencies for {len(self.categories) + self.other} inputs")
        return self

    @property
    def input_names(self) -> tuple[str, ...]:
        """The categories, "other" and "missing"."""
        ends = [f" is {category!r}" for category in self.categories]
        ends += [" is another"] * self.other + [" missing"] * (self.missing == "category")
        return tuple(self.name + end for end in ends)

    @property
    def refuses_missing(self) -> bool:
        """Whether every row must have a value."""
        return self.missing == "refuse"

    @cached_property
    def _index(self) -> dict[str, float]:
        return {category: float(index) for index, category in enumerate(self.categories)}

    @cached_property
    def _index_of_number(self) -> dict[float, float]:
        numbers = ((number_of_text(category), index) for category, index in self._index.items())
        return {number: index for number, index in numbers if number is not None}

    def read(self, value: Any) -> float:
        """Return the index of a category; a number finds the text that is it: 3 finds "3" and "3.0"."""
        if value is None or isinstance(value, dict | list):
            raise RawInputError(f"Column {self.name!r} takes a text, not {show(value)}.")
        index = self._index.get(text_of(value))
        if index is None and isinstance(value, int | float) and not isinstance(value, bool):
            index = self._index_of_number.get(value)
        return OTHER if index is None else index

    def read_text(self, text: str, decimal_comma: bool = False) -> float:  # noqa: ARG002 - as of the other kinds
        """Return the index of a category."""
        return self._index.get(text.strip(), OTHER)

    def inputs(self, values: Float64Array) -> Float64Array:
        """Return 1 in the input of the category and 0 in the others."""
        width, known = len(self.input_names), len(self.categories)
        if self.other:
            values = np.where(values == OTHER, float(known), values)
        absent = np.isnan(values)
        if self.missing == "category":
            values = np.where(absent, float(width - 1), values)
        inputs: Float64Array = (values[..., None] == np.arange(width)).astype(np.float64)
        if self.missing == "mean":
            inputs = np.where(absent[..., None], np.asarray(self.frequencies), inputs)
        return inputs

    def list_categories(self) -> str:
        """Return the categories as the part of a sentence."""
        shown = ", ".join(map(repr, self.categories[:_MAX_SHOWN]))
        more = len(self.categories) - _MAX_SHOWN
        return f"{shown} and {more} more" if more > 0 else shown


TableColumn = Annotated[NumberColumn | BooleanColumn | CategoryColumn, Field(discriminator="kind")]


def _finite(value: float, name: str) -> float:
    try:
        return check_finite(float(value), name)
    except OverflowError:
        raise RawInputError(f"Column {name!r} has a number that does not fit float32.") from None

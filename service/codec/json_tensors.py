"""Nested JSON values to arrays and back, strictly: nothing is rounded, wrapped or guessed on the way in.

A boolean is no number, a number with a fraction or exponent is no integer, an integer must fit its type, a number must
be finite in its type.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from normfold.service.errors import InvalidRequestError, UnwritableOutputError

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{name: np.dtype(name.lower()) for name in ("INT8", "INT16", "INT32", "INT64")},
    **{name: np.dtype(name.lower()) for name in ("UINT8", "UINT16", "UINT32", "UINT64")},
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}

_PACKED = {"FP32": "f", "FP64": "d"}
"""Formats of struct, for floats that JSON has."""

_TAKEN: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "true or false"),
    "i": (frozenset({int}), "integers"),
    "u": (frozenset({int}), "integers"),
    "f": (frozenset({int, float}), "numbers"),
    "O": (frozenset({str}), "strings"),
}


def array_from_nested(values: Any, datatype: str, what: str) -> Array:
    """Build an array whose shape is the values' own nesting.

    Args:
        values: nested lists, or one bare value for a scalar.
        datatype: the Open Inference Protocol's name.
        what: begins the sentence of an error, as in `Input 'x'`.

    Raises:
        InvalidRequestError: uneven nesting, or values that the datatype does not hold.
    """
    flat, shape, kinds = _flatten(values, what)
    return _to_array(flat, kinds, datatype, what).reshape(shape)


def array_from_data(data: Any, datatype: str, shape: Sequence[int], what: str) -> Array:
    """Build an array of a stated shape from values that are flat, or nested as the shape says.

    Raises:
        InvalidRequestError: uneven nesting, a number of values or a nesting that the shape denies, or values that the
        datatype
            does not hold.
    """
    flat, nested, kinds = _flatten(data, what)
    _check_nesting(nested, len(flat), shape, what)
    return _to_array(flat, kinds, datatype, what).reshape(shape)


def array_from_array(array: Array, shape: Sequence[int], what: str) -> Array:
    """Give values that were read into an array, shaped as they were nested, the stated shape.

    Raises:
        InvalidRequestError: as `array_from_data`.
    """
    _check_nesting(array.shape, array.size, shape, what)
    return array.reshape(shape)


def _check_nesting(nested: tuple[int, ...], count: int, shape: Sequence[int], what: str) -> None:
    if nested == tuple(shape):
        return
    if count != prod(shape):
        raise InvalidRequestError(f"{what} has {count} values where its shape {list(shape)} needs {prod(shape)}.")
    if not count and nested == tuple(shape[: len(nested)]):  # behind a size of 0, lists have nothing to nest
        return
    if len(nested) != 1:
        raise InvalidRequestError(f"{what} has data nested as {list(nested)} where its shape is {list(shape)}.")


def writable(array: Array, output: str) -> Any:
    """Return what orjson writes for an array, nested as its shape is.

    Raises:
        UnwritableOutputError: NaN or Infinity is in it (orjson would write null without a word).
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnwritableOutputError(output)
    if array.dtype.kind == "O" or array.ndim == 0:
        return array.tolist()
    return np.ascontiguousarray(array)


def _flatten(values: Any, what: str) -> tuple[list[Any], tuple[int, ...], set[type]]:
    """Return the innermost values in a row, the nesting they came in, and their types."""
    if not isinstance(values, list):
        return [values], (), {type(values)}
    shape = [len(values)]
    while list in (kinds := set(map(type, values))):
        lengths = set(map(len, values)) if kinds == {list} else set()
        if len(lengths) != 1:
            raise InvalidRequestError(f"{what} has data that are not nested evenly at depth {len(shape)}.")
        shape.append(lengths.pop())
        values = list(chain.from_iterable(values))
    return values, tuple(shape), kinds


def _to_array(flat: list[Any], kinds: set[type], datatype: str, what: str) -> Array:
    dtype = DTYPES[datatype]
    taken, words = _TAKEN[dtype.kind]
    if not kinds <= taken:
        index, wrong = next((index, value) for index, value in enumerate(flat) if type(value) not in taken)
        raise InvalidRequestError(f"{what} is {datatype} and takes {words}; value {index} is {_show(wrong)}.")
    try:
        if datatype in _PACKED:  # several times as fast as NumPy, and it refuses what is too large
            return np.frombuffer(struct.pack(f"={len(flat)}{_PACKED[datatype]}", *flat), dtype)
        return np.array(flat, dtype)
    except OverflowError:
        raise InvalidRequestError(
            f"{what} has a value that does not fit {datatype}{_first_too_large(flat, dtype)}."
        ) from None


def _first_too_large(flat: list[Any], dtype: np.dtype[Any]) -> str:
    """Return which value it is, of floats, as the end of a sentence."""
    if dtype.kind != "f":
        return ""
    limit = float(np.finfo(dtype).max)
    index = next((index for index, value in enumerate(flat) if not -limit <= value <= limit), 0)
    return f": value {index} is {_show(flat[index])}"


def _show(value: Any) -> str:
    """Return a value as JSON writes it, in short."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "an object"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"

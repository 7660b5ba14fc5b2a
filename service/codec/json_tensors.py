"""Tensors as JSON values: decoded strictly, without rounding, wrapping or conversion between kinds.

A boolean is not a number, a number with a fraction or exponent is not an integer, an integer must be in the range of
its datatype, and a number must be finite in it.
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
"""Formats of `struct` for the floating-point datatypes that have a JSON form."""

_ACCEPTED_TYPES: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "true or false"),
    "i": (frozenset({int}), "integers"),
    "u": (frozenset({int}), "integers"),
    "f": (frozenset({int, float}), "numbers"),
    "O": (frozenset({str}), "strings"),
}
"""By kind of dtype: Python types of JSON values, and their name in an error message."""


def array_from_nested(values: Any, datatype: str, what: str) -> Array:
    """Return an array whose shape is the nesting of the values.

    Args:
        values: nested lists, or one value for a scalar.
        datatype: the Open Inference Protocol's name.
        what: subject of the sentence of an error, such as `Input 'x'`.

    Raises:
        InvalidRequestError: the nesting is uneven, or a value does not fit the datatype.
    """
    flat, shape, kinds = _flatten(values, what)
    return _to_array(flat, kinds, datatype, what).reshape(shape)


def array_from_data(data: Any, datatype: str, shape: Sequence[int], what: str) -> Array:
    """Return an array of a given shape from values that are flat, or nested as the shape says.

    Args:
        data: nested or flat list of values.
        datatype: the Open Inference Protocol's name.
        shape: the client's.
        what: subject of the sentence of an error, such as `Input 'x'`.

    Raises:
        InvalidRequestError: the nesting is uneven, the number of values or the nesting differs from the shape, or a
            value does not fit the datatype.
    """
    flat, nested, kinds = _flatten(data, what)
    _check_nesting(nested, len(flat), shape, what)
    return _to_array(flat, kinds, datatype, what).reshape(shape)


def array_from_array(array: Array, shape: Sequence[int], what: str) -> Array:
    """Return an array of a given shape from one that has the shape in which its values were nested.

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
    if not count and nested == tuple(shape[: len(nested)]):  # after a size of 0, lists have nothing to nest
        return
    if len(nested) != 1:
        raise InvalidRequestError(f"{what} has data nested as {list(nested)} where its shape is {list(shape)}.")


def to_json(array: Array, output: str) -> Any:
    """Return what orjson can encode of an array, nested as its shape is.

    Raises:
        UnwritableOutputError: it holds NaN or Infinity, which orjson would encode as null.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnwritableOutputError(output)
    if array.dtype.kind == "O" or array.ndim == 0:
        return array.tolist()
    return np.ascontiguousarray(array)


def _flatten(values: Any, what: str) -> tuple[list[Any], tuple[int, ...], set[type]]:
    """Return the innermost values as one list, their nesting as a shape, and their types."""
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
    accepted, words = _ACCEPTED_TYPES[dtype.kind]
    if not kinds <= accepted:
        index, wrong = next((index, value) for index, value in enumerate(flat) if type(value) not in accepted)
        raise InvalidRequestError(f"{what} is {datatype} and takes {words}; value {index} is {_show(wrong)}.")
    try:
        if datatype in _PACKED:  # several times as fast as NumPy, and raises on overflow
            return np.frombuffer(struct.pack(f"={len(flat)}{_PACKED[datatype]}", *flat), dtype)
        return np.array(flat, dtype)
    except OverflowError:
        raise InvalidRequestError(
            f"{what} has a value that does not fit {datatype}{_describe_overflow(flat, dtype)}."
        ) from None


def _describe_overflow(flat: list[Any], dtype: np.dtype[Any]) -> str:
    """Return the first floating-point value out of range as the end of a sentence; nothing for integers."""
    if dtype.kind != "f":
        return ""
    limit = float(np.finfo(dtype).max)
    index = next((index for index, value in enumerate(flat) if not -limit <= value <= limit), 0)
    return f": value {index} is {_show(flat[index])}"


def _show(value: Any) -> str:
    """Return a value as JSON, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "an object"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"

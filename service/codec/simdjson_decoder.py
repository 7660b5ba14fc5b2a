"""Large infer requests in JSON: simdjson parses numbers straight into arrays, in a third of the time of Python lists.

Only valid requests are decoded here. Everything else (an error, uneven nesting, a number out of range) is left to
`service.codec.request.parse_object` and `service.codec.json_tensors`, whose errors say what is wrong.
"""

from __future__ import annotations

import codecs
import ctypes
import threading
from math import prod
from typing import Any, Literal

import numpy as np
import simdjson

from normfold.service.codec.json_tensors import DTYPES, Array

_BUFFERS: dict[str, tuple[Literal["d", "i", "u"], Any]] = {
    "f": ("d", np.float64),
    "i": ("i", np.int64),
    "u": ("u", np.uint64),
}
"""By kind of dtype: simdjson's name of a buffer, and the dtype of its elements."""

MIN_SIMDJSON_BYTES = 32 * 1024
"""JSON of more bytes is parsed by simdjson; for less it does not pay."""

_MAX_REUSED_BYTES = 8 * 2**20
"""Bytes of JSON up to which the parser of a thread is reused: it holds ten times the memory of the largest JSON."""

_MAX_MEMCHR_CALLS = 64
_CHUNK_BYTES = 128 * 1024
"""Fits into the processor's cache."""

_memchr = ctypes.CDLL(None).memchr
_memchr.restype, _memchr.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)


class _Parsers(threading.local):
    """A parser for each thread: allocating the memory of a new one takes twice as long as parsing."""

    def __init__(self) -> None:
        self.parser = simdjson.Parser()


_PARSERS = _Parsers()


def parse_large(body: bytes | memoryview) -> dict[str, Any] | None:
    """Parse an infer request, with the data of its inputs as arrays.

    Returns:
        The JSON object, each `data` an array of its input's datatype in the shape of its nesting; None if it must be
        decoded another way.
    """
    try:
        return _parse(body)
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError):  # RecursionError is a RuntimeError
        return None


def _parse(body: bytes | memoryview) -> dict[str, Any] | None:
    signs = np.frombuffer(body, np.uint8)
    if bytes(signs[:3]) == codecs.BOM_UTF8:  # simdjson skips it; JSON does not allow it (RFC 8259, section 8.1)
        return None
    parser = _PARSERS.parser if len(body) <= _MAX_REUSED_BYTES else simdjson.Parser()
    document = parser.parse(body)  # nothing of it may outlive this call, or the parser could not be used again
    if not isinstance(document, simdjson.Object):
        return None
    fields = _fields(document)
    inputs = fields.pop("inputs", None)
    if not isinstance(inputs, simdjson.Array):
        return None
    entries = [_entry(entry) for entry in inputs]
    if None in entries:
        return None
    record = {key: _plain(value) for key, value in fields.items()}
    brackets = 1 + sum(map(_lists, entries)) + _lists(record)
    return record | {"inputs": entries} if _count_brackets(signs) == brackets else None


def _count_brackets(signs: Array) -> int:
    """Return the number of opening brackets; a few are found with the C library's memchr, at the speed of memory.

    Brackets in strings count too. So a body has at least as many as lists, and exactly as many only if no list is
    hidden inside data that was parsed as if it were evenly nested.
    """
    at, end = signs.ctypes.data, signs.ctypes.data + len(signs)
    for count in range(_MAX_MEMCHR_CALLS):
        if (found := _memchr(at, ord("["), end - at)) is None:
            return count
        at = found + 1
    chunks = (signs[start : start + _CHUNK_BYTES] for start in range(0, len(signs), _CHUNK_BYTES))
    return sum(int(np.count_nonzero(chunk == ord("["))) for chunk in chunks)


def _entry(entry: Any) -> dict[str, Any] | None:
    """Return an input with its data as an array; None if it may be invalid."""
    if not isinstance(entry, simdjson.Object):
        return None
    values = _fields(entry)
    data = values.pop("data", None)
    fields = {key: _plain(value) for key, value in values.items()}
    dtype = DTYPES.get(str(fields.get("datatype")))
    if dtype is None or dtype.kind not in _BUFFERS or dtype == np.float16 or not isinstance(data, simdjson.Array):
        return None
    shape = _nesting(data)
    name, element = _BUFFERS[dtype.kind]
    numbers = np.frombuffer(data.as_buffer(of_type=name), element)
    if shape is None or numbers.size != prod(shape):
        return None
    with np.errstate(over="ignore"):
        array: Array = numbers.astype(dtype)
    fits = np.isfinite(array).all() if dtype.kind == "f" else (array == numbers).all()
    return fields | {"data": array.reshape(shape)} if fits else None


def _fields(document: Any) -> dict[str, Any]:
    """Return the values of an object, which simdjson has not converted.

    Raises:
        ValueError: a key is given twice: simdjson returns the first value, and orjson the last.
    """
    keys = list(document.keys())
    if len(set(keys)) < len(keys):
        raise ValueError("a key is given twice")
    return {key: document[key] for key in keys}


def _plain(value: Any) -> Any:
    """Return a value as Python's own lists and dictionaries."""
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value


def _nesting(data: Any) -> tuple[int, ...] | None:
    """Return the shape of nested arrays; None if the nesting is uneven. The innermost elements are not checked."""
    shape, inner = [len(data)], data
    while len(inner) and isinstance(inner[0], simdjson.Array):
        inner = inner[0]
        shape.append(len(inner))
    return tuple(shape) if _is_even(data, shape) else None


def _is_even(data: Any, shape: list[int]) -> bool:
    if len(data) != shape[0]:
        return False
    if len(shape) == 1:
        return True
    return all(isinstance(inner, simdjson.Array) and _is_even(inner, shape[1:]) for inner in data)


def _lists(value: Any) -> int:
    """Return the number of opening brackets that a value was written with."""
    if isinstance(value, dict):
        return sum(map(_lists, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(_lists, value))
    if isinstance(value, np.ndarray):
        return sum(prod(value.shape[:axis]) for axis in range(value.ndim))
    return 0

"""The binary tensor extension of the Open Inference Protocol: tensors as bytes, little-endian and row-major.

fixed-size datatypes   the elements one after another
BYTES                  each element behind its length, 4 bytes, unsigned
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from math import prod

import numpy as np

from normfold.service.codec.json_tensors import DTYPES, Array
from normfold.service.errors import InvalidRequestError

Piece = bytes | memoryview
"""Bytes of a body; a view has one byte for each of its elements."""

_LENGTH = struct.Struct("<I")

_IS_LITTLE = sys.byteorder == "little"
_ON_THE_WIRE = {name: dtype.newbyteorder("<") for name, dtype in DTYPES.items()}

SMALLEST_KEPT = 64 * 1024
"""Bytes: less than that is copied sooner than it is kept apart."""


def array_from_bytes(data: memoryview, datatype: str, shape: Sequence[int], what: str) -> Array:
    """Read a tensor; one of fixed-size elements stays where it is, and is not copied.

    Args:
        data: exactly the tensor's bytes.
        datatype: the Open Inference Protocol's name.
        shape: as stated by the client.
        what: begins the sentence of an error, as in `Input 'x'`.

    Raises:
        InvalidRequestError: too few or too many bytes for the shape, or bytes that are no text.
    """
    if datatype == "BYTES":
        return _strings_from_bytes(data, shape, what)
    dtype = DTYPES[datatype]
    needed = prod(shape) * dtype.itemsize
    if data.nbytes != needed:
        raise InvalidRequestError(f"{what} has {data.nbytes} bytes where {datatype} {list(shape)} needs {needed}.")
    if dtype.kind == "b":
        flags: Array = np.frombuffer(data, np.uint8) != 0
        return flags.reshape(shape)
    array = np.frombuffer(data, _ON_THE_WIRE[datatype])
    if not array.flags.aligned or array.dtype != dtype:  # the host may be big-endian
        array = array.astype(dtype)
    return array.reshape(shape)


def array_to_bytes(array: Array) -> Piece:
    """Write a tensor, strings as UTF-8; a large one that has its memory to itself stays where it is.

    A part of a larger array is copied: who reads his answer slowly would hold the rows of all who ran with him.
    """
    if array.dtype.kind == "O":
        return b"".join(_LENGTH.pack(len(text)) + text for text in map(_encoded, array.reshape(-1)))
    if array.nbytes < SMALLEST_KEPT and _IS_LITTLE:
        return array.tobytes()
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    if plain.nbytes < SMALLEST_KEPT or (isinstance(plain.base, np.ndarray) and plain.base.nbytes > plain.nbytes):
        return plain.tobytes()
    return plain.reshape(-1).view(np.uint8).data


def _encoded(element: str | bytes) -> bytes:
    return element if isinstance(element, bytes) else element.encode()


def _strings_from_bytes(data: memoryview, shape: Sequence[int], what: str) -> Array:
    elements: list[str] = []
    at = 0
    while at < data.nbytes:
        if at + _LENGTH.size > data.nbytes:
            raise InvalidRequestError(f"{what} ends within the length of an element.")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > data.nbytes:
            raise InvalidRequestError(f"{what} ends within element {len(elements)}, which should have {length} bytes.")
        try:
            elements.append(str(data[at : at + length], "utf-8"))
        except UnicodeDecodeError:
            raise InvalidRequestError(f"{what} has an element {len(elements)} that is not UTF-8 text.") from None
        at += length
    if len(elements) != prod(shape):
        raise InvalidRequestError(
            f"{what} has {len(elements)} elements where its shape {list(shape)} needs {prod(shape)}."
        )
    return np.array(elements, np.object_).reshape(shape)

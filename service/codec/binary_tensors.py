"""The binary tensor extension of the Open Inference Protocol: tensors as bytes, little-endian and row-major.

    fixed-size datatypes   the elements one after another
    BYTES                  each element after its length, an unsigned integer of 4 bytes

Source: github.com/triton-inference-server/server, docs/protocol/extension_binary_data.md.
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
"""A part of a body; the elements of a memoryview are single bytes."""

_LENGTH = struct.Struct("<I")

_IS_LITTLE_ENDIAN = sys.byteorder == "little"
_LITTLE_ENDIAN = {name: dtype.newbyteorder("<") for name, dtype in DTYPES.items()}

MIN_PIECE_BYTES = 64 * 1024
"""Tensors of at least so many bytes stay a piece of their own in a body; copying a smaller one is cheaper."""


def array_from_bytes(data: memoryview, datatype: str, shape: Sequence[int], what: str) -> Array:
    """Decode a tensor; one of fixed-size elements is not copied, if `data` is aligned and the host little-endian.

    Args:
        data: exactly the tensor's bytes.
        datatype: the Open Inference Protocol's name.
        shape: the client's.
        what: subject of the sentence of an error, such as `Input 'x'`.

    Returns:
        An array of `shape`, in the datatype's dtype; BOOL is true for every byte but 0.

    Raises:
        InvalidRequestError: the shape needs fewer or more bytes, or an element of BYTES is not UTF-8 text.
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
    array = np.frombuffer(data, _LITTLE_ENDIAN[datatype])
    if not array.flags.aligned or array.dtype != dtype:
        array = array.astype(dtype)
    return array.reshape(shape)


def array_to_bytes(array: Array) -> Piece:
    """Encode a tensor, strings as UTF-8; a large one that owns its memory is not copied.

    A view of a larger array is copied: a client that reads its response slowly would hold the rows of its whole batch.
    """
    if array.dtype.kind == "O":
        return b"".join(_LENGTH.pack(len(text)) + text for text in map(_encode_text, array.reshape(-1)))
    if array.nbytes < MIN_PIECE_BYTES and _IS_LITTLE_ENDIAN:
        return array.tobytes()
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    if plain.nbytes < MIN_PIECE_BYTES or (isinstance(plain.base, np.ndarray) and plain.base.nbytes > plain.nbytes):
        return plain.tobytes()
    return plain.reshape(-1).view(np.uint8).data


def _encode_text(element: str | bytes) -> bytes:
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

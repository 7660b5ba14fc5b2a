"""The infer response of the Open Inference Protocol: JSON, and tensors in it or as bytes after it.

    {id?, model_name, model_version, outputs: [{name, shape, datatype, parameters?, data?}]}

`data` is flat, in row-major order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np
import orjson

from normfold.contract.manifest import Manifest
from normfold.service.codec.binary_tensors import MIN_PIECE_BYTES, Piece, array_to_bytes
from normfold.service.codec.json_tensors import Array
from normfold.service.codec.signature import OutputRequest
from normfold.service.errors import UnwritableOutputError


class InferResponse(NamedTuple):
    """The body of a response.

    Attributes:
        pieces: JSON and tensors in order.
        json_bytes: length of the JSON, if binary tensors follow it; None otherwise.
    """

    pieces: tuple[Piece, ...]
    json_bytes: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the whole body."""
        return sum(map(len, self.pieces))


def encode_response(
    manifest: Manifest,
    outputs: Sequence[OutputRequest],
    results: Mapping[str, Array],
    client_request_id: str | None = None,
) -> InferResponse:
    """Encode an infer response.

    Args:
        manifest: the model's.
        outputs: the requested ones, in order.
        results: by output.
        client_request_id: the request's id, if it has one.

    Raises:
        UnwritableOutputError: an output that is to be JSON holds NaN or Infinity.
    """
    datatypes = {spec.name: spec.datatype for spec in manifest.outputs}
    begin = _begin(manifest.name, manifest.version)
    if client_request_id is not None:
        begin = b'{"id":%b,%b' % (orjson.dumps(client_request_id), begin[1:])
    text, comma = begin, b""
    pieces: list[Piece] = []
    tails: list[Piece] = []
    for output in outputs:
        array, datatype, name = results[output.name], datatypes[output.name], output.name
        if output.classes is not None:
            array, datatype = classify(array, output, manifest), "BYTES"
        head = _head(name, datatype, array.shape)
        if output.binary:
            tails.append(array_to_bytes(array))
            text = b'%b%b%b"parameters":{"binary_data_size":%d}}' % (text, comma, head, len(tails[-1]))
        elif len(numbers := _encode_values(array, name)) < MIN_PIECE_BYTES:
            text = b'%b%b%b"data":%b}' % (text, comma, head, numbers)
        else:
            pieces += (b'%b%b%b"data":' % (text, comma, head), numbers)
            text = b"}"
        comma = b","
    pieces.append(text + b"]}")
    if not any(tails):
        return InferResponse(tuple(pieces))
    return InferResponse((*pieces, *tails), json_bytes=sum(map(len, pieces)))


@lru_cache(maxsize=1024)
def _begin(name: str, version: int) -> bytes:
    """Return the JSON up to the first output."""
    return orjson.dumps({"model_name": name, "model_version": str(version)})[:-1] + b',"outputs":['


@lru_cache(maxsize=1024)
def _head(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """Return the JSON of an output up to its data."""
    return orjson.dumps({"name": name, "datatype": datatype, "shape": shape})[:-1] + b","


def _encode_values(array: Array, output: str) -> bytes:
    """Return the values of an output as flat JSON; orjson encodes NaN and Infinity as null."""
    if array.dtype.kind == "O":
        return orjson.dumps(array.reshape(-1).tolist())
    text = orjson.dumps(np.ascontiguousarray(array).reshape(-1), option=orjson.OPT_SERIALIZE_NUMPY)
    if array.dtype.kind == "f" and b"null" in text:
        raise UnwritableOutputError(output)
    return text


def classify(array: Array, output: OutputRequest, manifest: Manifest) -> Array:
    """Return the highest values of each row as `value:index[:label]`, in descending order; equal ones by index.

    An output of one dimension is one row. NaN counts as the lowest value.

    Source: github.com/triton-inference-server/server, docs/protocol/extension_classification.md.
    """
    rows = array.reshape(array.shape[0], prod(array.shape[1:])) if array.ndim > 1 else array.reshape(1, -1)
    labels = manifest.card.labels
    named = labels is not None and len(labels) == rows.shape[1]
    keys = np.where(np.isnan(rows), -np.inf, rows) if rows.dtype.kind == "f" else rows
    order = rows.shape[1] - 1 - np.argsort(keys[:, ::-1], axis=1, kind="stable")[:, ::-1][:, : output.classes]
    texts = [
        [f"{row[index]:f}:{index}" + (f":{labels[index]}" if named and labels else "") for index in chosen]
        for row, chosen in zip(rows, order.tolist(), strict=True)
    ]
    shape = (len(texts), order.shape[1]) if array.ndim > 1 else (order.shape[1],)
    return np.array(texts, np.object_).reshape(shape)

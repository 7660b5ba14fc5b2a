"""Infer requests and responses of the Open Inference Protocol, as the client writes and reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http.client import HTTPMessage
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from normfold._shared.argument_checks import FLAG, NAMES, TENSORS, check, check_optional
from normfold._shared.predictions import to_tensor
from normfold.errors import ArgumentError
from normfold.service.codec.binary_tensors import Piece, array_from_bytes, array_to_bytes
from normfold.service.codec.json_tensors import DTYPES

Array = npt.NDArray[Any]

_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}

_HEADER_LENGTH = "Inference-Header-Content-Length"


def write_infer_request(
    inputs: Mapping[str, Any], outputs: Sequence[str] | None, binary: bool
) -> tuple[list[Piece], dict[str, str]]:
    """Return the body of an infer request, in pieces, and its headers.

    Args:
        inputs: name to array.
        outputs: names of those to return; all without it.
        binary: tensors as bytes after the JSON, both ways.

    Raises:
        ArgumentError: an argument cannot be used, or an array has a dtype that the protocol does not know.
    """
    check(TENSORS, inputs=inputs)
    check_optional(NAMES, outputs=outputs)
    check(FLAG, binary=binary)
    entries: list[dict[str, Any]] = []
    tensors: list[Piece] = []
    for name, given in inputs.items():
        array = to_tensor(name, given)
        entry: dict[str, Any] = {"name": name, "datatype": _datatype(name, array), "shape": list(array.shape)}
        if binary:
            tensors.append(array_to_bytes(array))
            entry["parameters"] = {"binary_data_size": len(tensors[-1])}
        else:
            entry["data"] = array.reshape(-1).tolist()
        entries.append(entry)
    record: dict[str, Any] = {"inputs": entries}
    if binary:
        record["parameters"] = {"binary_data_output": True}
    if outputs is not None:
        record["outputs"] = [{"name": name, "parameters": {"binary_data": binary}} for name in outputs]
    head = orjson.dumps(record)
    headers = {"Content-Type": "application/octet-stream" if binary else "application/json"}
    if binary:
        headers[_HEADER_LENGTH] = str(len(head))
    return [head, *tensors], headers


def read_infer_response(headers: HTTPMessage, body: bytes) -> dict[str, Array]:
    """Return the tensors of an infer response, by output: JSON, and bytes after it."""
    length = headers.get(_HEADER_LENGTH)
    view = memoryview(body)
    at = len(view) if length is None else int(length)
    record = orjson.loads(view[:at])
    arrays: dict[str, Array] = {}
    for output in record["outputs"]:
        datatype, shape, name = output["datatype"], output["shape"], output["name"]
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            arrays[name] = np.array(output["data"], DTYPES[datatype]).reshape(shape)
        else:
            arrays[name] = array_from_bytes(view[at : at + size], datatype, shape, f"Output {name!r}")
            at += size
    return arrays


def _datatype(name: str, array: Array) -> str:
    datatype = _DATATYPES.get(array.dtype)
    if datatype is None:
        raise ArgumentError(f"Input {name!r} has the dtype {array.dtype}, which the protocol does not know.")
    return datatype

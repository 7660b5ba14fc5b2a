"""The record of one answer: a line of JSON with the ids, the version, and the tensors of the request and the answer.

A tensor is {"name", "datatype", "shape"} and one of

    "data"          its values, flat: up to MAX_LISTED values, all of them finite, and text
    "base64"        its bytes, row-major and little-endian as in the binary tensor extension
    "left_out"      true: it has more than MAX_TENSOR_BYTES
    "redacted"      true: its name is on the list
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import orjson

from normfold.service.codec.binary_tensors import array_to_bytes
from normfold.service.codec.json_tensors import DTYPES, Array

MAX_LISTED = 1024
"""Values of a tensor that are written as a list."""

MAX_TENSOR_BYTES = 2**20
"""Bytes of a tensor that is written."""

MAX_PARAMETERS_BYTES = 16 * 1024
"""Bytes of the parameters of a request, as JSON, that are written."""

REDACTED = "[redacted]"

_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}


class Answer(NamedTuple):
    """A request that was answered.

    Attributes:
        time: seconds since 1970.
        id: of the answer, as its client knows it: the `id` of its body, otherwise its X-Request-Id.
        request_id: the X-Request-Id.
        model: that answered.
        version: that answered.
        parameters: of the request, as the client gave them.
        inputs: by name.
        outputs: by name.
        part: index, where rows of one request ran apart; None for the only one.
    """

    time: float
    id: str
    request_id: str
    model: str
    version: int
    parameters: Mapping[str, Any] | None
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    part: int | None = None


def encode_record(answer: Answer, redacted: frozenset[str]) -> bytes:
    """Return the line of an answer, with its newline.

    Args:
        answer: the answer.
        redacted: names of inputs, outputs and parameters whose values are left out.
    """
    record: dict[str, Any] = {
        "time": datetime.fromtimestamp(answer.time, UTC).isoformat(timespec="milliseconds"),
        "id": answer.id,
        "request_id": answer.request_id,
        "model": answer.model,
        "version": str(answer.version),
    }
    if answer.part is not None:
        record["part"] = answer.part
    if answer.parameters:
        record["parameters"] = _encode_parameters(answer.parameters, redacted)
    for field, tensors in (("inputs", answer.inputs), ("outputs", answer.outputs)):
        record[field] = [_encode_tensor(name, array, name in redacted) for name, array in tensors.items()]
    return orjson.dumps(record) + b"\n"


def _encode_parameters(parameters: Mapping[str, Any], redacted: frozenset[str]) -> Any:
    kept = {name: REDACTED if name in redacted else value for name, value in parameters.items()}
    return kept if len(orjson.dumps(kept)) <= MAX_PARAMETERS_BYTES else {"left_out": True}


def _encode_tensor(name: str, array: Array, is_redacted: bool) -> dict[str, Any]:
    datatype = _DATATYPES.get(array.dtype, str(array.dtype))
    record: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
    if is_redacted:
        record["redacted"] = True
    elif array.nbytes > MAX_TENSOR_BYTES or (datatype == "BYTES" and _text_bytes(array) > MAX_TENSOR_BYTES):
        record["left_out"] = True
    elif datatype == "BYTES":
        record["data"] = [_as_text(value) for value in array.reshape(-1).tolist()]
    elif array.size > MAX_LISTED or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        record["base64"] = b64encode(array_to_bytes(array)).decode()
    else:
        record["data"] = array.reshape(-1).tolist()
    return record


def _text_bytes(array: Array) -> int:
    return sum(map(len, array.reshape(-1).tolist()))


def _as_text(value: str | bytes) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value

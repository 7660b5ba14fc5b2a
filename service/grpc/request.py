"""From a ModelInferRequest to the infer request that all protocols share.

A message becomes what the JSON of HTTP is parsed to, so that both are checked by the same code and answered with the
same sentences. Tensors are raw (`raw_input_contents`: one for each input, as in the binary tensor extension) or typed
(`contents` of each input). Outputs are raw, unless the request asks for `binary_data_output: false` or
`binary_data: false`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from normfold.service.codec.json_tensors import DTYPES
from normfold.service.codec.request import InferRequest, decode_request
from normfold.service.codec.request_inputs import quote, reject_shared_memory
from normfold.service.codec.signature import ModelSignature
from normfold.service.errors import InvalidRequestError
from normfold.service.grpc.protocol.fields import cut_out
from normfold.service.grpc.protocol.inference_pb2 import InferParameter, InferTensorContents, ModelInferRequest

MIN_CUT_BYTES = 32 * 1024
"""Raw tensors of a message of at least so many bytes are not copied."""

CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of typed contents by datatype; FP16 has none."""

_EXACT = frozenset({"BOOL", "INT32", "INT64", "UINT32", "UINT64", "FP32", "FP64"})
"""Datatypes whose field can hold no other values than theirs."""

_RAW_INPUT_CONTENTS = ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_RAW_OUTPUTS = {"binary_data_output": True}
_RAW_OUTPUT = {"binary_data": True}

Raw = Sequence[bytes | memoryview]


def parse_request(data: bytes) -> tuple[ModelInferRequest, Raw]:
    """Parse a message; return it, and its raw tensors, which it does not hold itself if it is large.

    Raises:
        InvalidRequestError: it is no ModelInferRequest.
    """
    cut = cut_out(data, _RAW_INPUT_CONTENTS) if len(data) >= MIN_CUT_BYTES else None
    try:
        if cut is not None:
            return ModelInferRequest.FromString(cut[0]), cut[1]
        message = ModelInferRequest.FromString(data)
    except DecodeError:
        raise InvalidRequestError("The message is not a ModelInferRequest.") from None
    return message, message.raw_input_contents


def read_request(
    message: ModelInferRequest, raw: Raw, signature: ModelSignature, remaining_s: float | None = None
) -> InferRequest:
    """Check a message against the model's signature.

    Args:
        message: parsed.
        raw: its raw tensors.
        signature: the model's.
        remaining_s: seconds until the deadline of the call; None if it has none.

    Raises:
        InvalidRequestError: a field is missing, unknown, given twice, of another type or shape, or out of range.
    """
    record: dict[str, Any] = {"inputs": _read_inputs(message, raw), "parameters": _RAW_OUTPUTS}
    if message.parameters:
        record["parameters"] = _RAW_OUTPUTS | read_parameters(message.parameters)
    if message.outputs:
        default = {"binary_data": record["parameters"]["binary_data_output"]}
        record["outputs"] = [
            {"name": one.name, "parameters": default | read_parameters(one.parameters) if one.parameters else default}
            for one in message.outputs
        ]
    request = decode_request(record, signature)
    if remaining_s is None:
        return request
    timeout_s = remaining_s if request.timeout_s is None else min(request.timeout_s, remaining_s)
    return request._replace(timeout_s=timeout_s)


def read_parameters(parameters: Mapping[str, InferParameter]) -> dict[str, Any]:
    """Return the parameters of a request, an input or an output as Python's values."""
    return {
        name: getattr(value, chosen)
        for name, value in parameters.items()
        if (chosen := value.WhichOneof("parameter_choice")) is not None
    }


def _read_inputs(message: ModelInferRequest, raw: Raw) -> list[dict[str, Any]]:
    inputs = message.inputs
    if not raw:
        return [_read_input(tensor, _read_contents(tensor)) for tensor in inputs]
    if len(raw) != len(inputs):
        for tensor in inputs:
            reject_shared_memory(tensor.parameters, f"Input {quote(tensor.name)}")
        raise InvalidRequestError(
            f"The request has {len(raw)} raw_input_contents for {len(inputs)} inputs; each input needs one."
        )
    # MLServer's client sends contents without values beside the raw ones.
    if any(tensor.HasField("contents") and tensor.contents.ByteSize() for tensor in inputs):
        raise InvalidRequestError("The request has both contents and raw_input_contents; send one of them.")
    return [_read_input(tensor, memoryview(data)) for tensor, data in zip(inputs, raw, strict=True)]


def _read_input(tensor: ModelInferRequest.InferInputTensor, data: Any) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), "data": data}


def _read_contents(tensor: ModelInferRequest.InferInputTensor) -> Any:
    """Return the typed contents of an input: an array, or a list if its values are still to be checked."""
    what, datatype = f"Input {quote(tensor.name)}", tensor.datatype
    reject_shared_memory(tensor.parameters, what)
    field = CONTENTS.get(datatype)
    if field is None:
        if datatype == "FP16":
            raise InvalidRequestError(f"{what} is FP16, which has no typed contents; send it in raw_input_contents.")
        return []  # the datatype is rejected with the others that the model does not take
    other = next((one.name for one, _ in tensor.contents.ListFields() if one.name != field), None)
    if other is not None:
        raise InvalidRequestError(f"{what} is {quote(datatype)} and has {other}; its values belong into {field}.")
    values = getattr(tensor.contents, field)
    if datatype == "BYTES":
        return _read_texts(tensor.contents, what)
    return np.fromiter(values, DTYPES[datatype], len(values)) if datatype in _EXACT else list(values)


def _read_texts(contents: InferTensorContents, what: str) -> list[str]:
    texts = []
    for index, value in enumerate(contents.bytes_contents):
        try:
            texts.append(value.decode())
        except UnicodeDecodeError:
            raise InvalidRequestError(f"{what} has an element {index} that is not UTF-8 text.") from None
    return texts

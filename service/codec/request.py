"""The infer request of the Open Inference Protocol (github.com/kserve/open-inference-protocol), version 2.

    {id?, parameters?, inputs: [{name, shape, datatype, parameters?, data?}], outputs?: [{name, parameters?}]}

An input has exactly one of `data` and `parameters.binary_data_size` (the binary tensor extension). Fields that the
protocol does not name are ignored, since clients send some (KServe's sends `model_name`), and a field that may be left
out may be null, as clients that write every field have it. Of a key that is given twice
the last value counts. FP16 has no JSON form in the protocol. `service.codec.response` encodes the response.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import orjson

from normfold.contract.manifest import TensorSpec
from normfold.service.codec.binary_tensors import array_from_bytes
from normfold.service.codec.json_tensors import DTYPES, Array
from normfold.service.codec.request_inputs import quote, quote_names, read_inputs, read_named, reject_shared_memory
from normfold.service.codec.signature import ModelSignature, OutputRequest
from normfold.service.codec.simdjson_decoder import MIN_SIMDJSON_BYTES, parse_large
from normfold.service.errors import InvalidRequestError

URGENT_PRIORITY = 1
"""The priority of a request that is run before all others; 0 and 2 are the same."""


class InferRequest(NamedTuple):
    """A request whose tensors fit the model.

    Attributes:
        tensors: by input, in the datatype and shape that the model declares.
        outputs: those to return, in order.
        output_names: the names of `outputs`.
        timeout_s: the client's; None if it sets none.
        urgent: whether the request is run before others.
    """

    tensors: dict[str, Array]
    outputs: tuple[OutputRequest, ...]
    output_names: tuple[str, ...]
    timeout_s: float | None = None
    urgent: bool = False


def parse_object(body: bytes | memoryview) -> dict[str, Any]:
    """Parse a body that is one JSON object.

    Raises:
        InvalidRequestError: it is not JSON (NaN and Infinity are not), or not an object.
    """
    if not body:
        raise InvalidRequestError("The body is empty; a JSON object is expected.")
    try:
        record = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"The body is not JSON: {error}.") from None
    if not isinstance(record, dict):
        raise InvalidRequestError("The body is JSON, but not an object.")
    return record


def parse_body(body: memoryview, json_length: int | None) -> tuple[dict[str, Any], memoryview | None]:
    """Parse the JSON of a body.

    Args:
        body: not compressed.
        json_length: bytes of the JSON; None if the whole body is JSON.

    Returns:
        The parsed JSON, with the data of a large one as arrays; and the bytes after it, None if `json_length` is None.

    Raises:
        InvalidRequestError: the body is shorter than `json_length`, or not a JSON object.
    """
    json, binary = body, None
    if json_length is not None:
        if json_length > len(body):
            raise InvalidRequestError(f"The JSON should have {json_length} bytes; the body has {len(body)}.")
        json, binary = body[:json_length], body[json_length:]
    return (parse_large(json) if len(json) > MIN_SIMDJSON_BYTES else None) or parse_object(json), binary


def read_id(record: Mapping[str, Any]) -> str | None:
    """Return the request's id, or None if the body names none.

    Raises:
        InvalidRequestError: the id is not a string.
    """
    client_request_id = record.get("id")
    if client_request_id is not None and not isinstance(client_request_id, str):
        raise InvalidRequestError("The id is not a string.")
    return client_request_id


def decode_raw_tensor(body: memoryview, signature: ModelSignature) -> InferRequest:
    """Decode a body that is the bytes of one tensor (a JSON length of 0); all outputs are returned as bytes.

    Raises:
        InvalidRequestError: the model has several inputs, or its shape does not follow from the number of bytes.
    """
    if len(signature.required_inputs) != 1:
        raise InvalidRequestError(
            f"A body without JSON is the tensor of one input; the model takes {quote_names(signature.required_inputs)}."
        )
    (spec,) = signature.required_inputs.values()
    what = f"Input {spec.name!r}"
    free = [axis for axis, size in enumerate(spec.shape) if size == -1]
    shape = [1 if size == -1 else size for size in spec.shape]
    if spec.datatype == "BYTES":
        if prod(shape) != 1:
            raise InvalidRequestError(f"{what} takes {prod(shape)} strings; a body without JSON is one.")
        body = memoryview(len(body).to_bytes(4, "little") + bytes(body))
    elif len(free) > 1:
        raise InvalidRequestError(f"{what} has {len(free)} free sizes, which do not follow from the number of bytes.")
    else:
        for axis in free:
            shape[axis] = len(body) // max(1, prod(shape) * DTYPES[spec.datatype].itemsize)
    array = array_from_bytes(body, spec.datatype, shape, what)
    return InferRequest({spec.name: array}, signature.all_outputs[True], signature.output_names)


def decode_request(
    record: Mapping[str, Any], signature: ModelSignature, binary: memoryview | None = None
) -> InferRequest:
    """Decode an infer request, and check it against the model's signature.

    Args:
        record: the parsed JSON.
        signature: the model's.
        binary: the bytes after the JSON; None if the body ends with the JSON.

    Raises:
        InvalidRequestError: a field is missing, unknown, given twice, of another type or shape, or out of range.
    """
    parameters = record.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidRequestError("The request's parameters are not an object.")
    tensors = read_inputs(record, signature, binary)
    binary_output = parameters is not None and _read_flag(parameters, "binary_data_output", "The request")
    outputs = _read_outputs(record.get("outputs"), signature, binary_output)
    is_all = outputs is signature.all_outputs[binary_output]
    names = signature.output_names if is_all else tuple([output.name for output in outputs])
    if parameters is None:
        return InferRequest(tensors, outputs, names)
    urgent = _read_priority(parameters) == URGENT_PRIORITY
    return InferRequest(tensors, outputs, names, _read_timeout(parameters), urgent)


def _read_outputs(entries: Any, signature: ModelSignature, binary: bool) -> tuple[OutputRequest, ...]:
    """Return the requested outputs: those listed, or all of them."""
    if entries is not None and entries != []:
        chosen = []
        for name, entry in read_named(entries, "outputs", "output"):
            if name not in signature.outputs:
                raise InvalidRequestError(
                    f"There is no output {quote(name)}; the model gives {quote_names(signature.outputs)}."
                )
            chosen.append(_read_output(entry, signature.outputs[name], signature))
        return tuple(chosen)
    if signature.has_fp16_output and not binary:
        for spec in signature.outputs.values():
            _require_json_form(spec)
    return signature.all_outputs[binary]


def _read_output(entry: Mapping[str, Any], spec: TensorSpec, signature: ModelSignature) -> OutputRequest:
    parameters, name = entry.get("parameters"), spec.name
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise InvalidRequestError(f"Output {name!r}: its parameters are not an object.")
    if "shared_memory_region" in parameters:
        reject_shared_memory(parameters, f"Output {name!r}")
    binary, classes = _read_flag(parameters, "binary_data", f"Output {name!r}"), parameters.get("classification")
    if classes is None:
        if not binary:
            _require_json_form(spec)
        return signature.output_requests[binary][name]
    if type(classes) is not int or classes < 1:
        raise InvalidRequestError(f"Output {name!r} has a classification that is not a positive integer.")
    if spec.datatype in ("BYTES", "BOOL"):
        raise InvalidRequestError(f"Output {name!r} is {spec.datatype}; a classification needs numbers.")
    return OutputRequest(name, binary, classes)


def _read_flag(parameters: Mapping[str, Any], name: str, what: str) -> bool:
    flag = parameters.get(name)
    if flag is not None and not isinstance(flag, bool):
        raise InvalidRequestError(f"{what} has a parameter {name!r} that is not true or false.")
    return flag is True


def _require_json_form(spec: TensorSpec) -> None:
    if spec.datatype == "FP16":
        raise InvalidRequestError(
            f"Output {spec.name!r} is FP16, which the protocol has no JSON form for; ask for binary data."
        )


def _read_timeout(parameters: Mapping[str, Any]) -> float | None:
    """Return the timeout in seconds; the client gives microseconds."""
    timeout = parameters.get("timeout")
    if timeout is None:
        return None
    if type(timeout) is not int or timeout < 0:
        raise InvalidRequestError("The request's timeout is not a number of microseconds.")
    return timeout / 1e6 or None


def _read_priority(parameters: Mapping[str, Any]) -> int:
    priority = parameters.get("priority")
    if priority is None:
        return 0
    if type(priority) is not int or not 0 <= priority <= 2:
        raise InvalidRequestError("The request's priority is not 0, 1 (before others) or 2.")
    return priority

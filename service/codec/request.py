"""The Open Inference Protocol's infer request: JSON, and tensors as JSON or as bytes behind it.

    {id?, parameters?, inputs: [{name, shape, datatype, parameters?, data?}], outputs?: [{name, parameters?}]}

An input has exactly one of `data` and `parameters.binary_data_size`. Fields that the protocol does not name are
ignored, since real clients send some (KServe's sends `model_name`); of a key that is given twice the last one holds.
FP16 has no JSON form in the protocol. How answers are written stands in `service.codec.response`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import orjson

from normfold.contract.manifest import TensorSpec
from normfold.service.codec.binary_tensors import array_from_bytes
from normfold.service.codec.json_tensors import DTYPES, Array, array_from_array, array_from_data
from normfold.service.errors import InvalidRequestError

_INTEGERS = frozenset({int})

_LARGEST_PRODUCT = 2**20
"""Of the sizes of a tensor without elements: its rows cost no byte of the body, and are run all the same."""

_LONGEST_SHOWN = 80

URGENT = 1
"""The priority of a request that goes before all others; 0 and 2 are usual."""


class OutputRequest(NamedTuple):
    """How one output is to be answered: as bytes, or as its highest classes, or as JSON."""

    name: str
    binary: bool = False
    classes: int | None = None


class InferRequest(NamedTuple):
    """A request whose tensors fit the model.

    Attributes:
        tensors: input name to array, in the datatype and shape that the model declares.
        outputs: those to answer, in order.
        names: theirs.
        timeout_s: what the client allows, if it says so.
        urgent: whether it goes before others.
    """

    tensors: dict[str, Array]
    outputs: tuple[OutputRequest, ...]
    names: tuple[str, ...]
    timeout_s: float | None = None
    urgent: bool = False


class ModelSignature:
    """What a model takes and gives, laid out for reading requests.

    Args:
        inputs: the manifest's.
        outputs: likewise.
    """

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self.inputs = {spec.name: spec for spec in inputs}
        self.outputs = {spec.name: spec for spec in outputs}
        self.one = {
            binary: {spec.name: OutputRequest(spec.name, binary) for spec in outputs} for binary in (False, True)
        }
        self.all = {binary: tuple(self.one[binary].values()) for binary in (False, True)}
        self.names = tuple(self.outputs)
        self.has_text = any(spec.datatype == "BYTES" for spec in inputs)
        self.has_half = any(spec.datatype == "FP16" for spec in outputs)


def parse_object(body: bytes | memoryview) -> dict[str, Any]:
    """Parse a body that must be one JSON object.

    Raises:
        InvalidRequestError: not JSON (NaN and Infinity are not), or not an object.
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


def read_id(record: Mapping[str, Any]) -> str | None:
    """Return the request's id, or None if it has none.

    Raises:
        InvalidRequestError: the id is not a string.
    """
    identity = record.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InvalidRequestError("The id is not a string.")
    return identity


def raw_request(body: memoryview, ports: ModelSignature) -> InferRequest:
    """Read a body that is one tensor and nothing else (a header length of 0); all outputs are answered as bytes.

    Raises:
        InvalidRequestError: the model has several inputs, or its shape does not follow from the number of bytes.
    """
    if len(ports.inputs) != 1:
        raise InvalidRequestError(
            f"A body without JSON is the tensor of one input; the model takes {_quote(ports.inputs)}."
        )
    (spec,) = ports.inputs.values()
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
    return InferRequest({spec.name: array}, ports.all[True], ports.names)


def decode_request(record: Mapping[str, Any], ports: ModelSignature, raw: memoryview | None = None) -> InferRequest:
    """Read the tensors of an infer request, and hold them against what the model declares.

    Args:
        record: the parsed JSON.
        ports: the model's.
        raw: what stands behind the JSON.

    Raises:
        InvalidRequestError: anything that is missing, unknown, doubled, of another type or shape, out of range, or left
        over.
    """
    parameters = record.get("parameters")
    if not isinstance(parameters, dict) and "parameters" in record:
        raise InvalidRequestError("The request's parameters are not an object.")
    tensors: dict[str, Array] = {}
    at = 0
    for name, entry in _read_named(record.get("inputs"), "inputs", "input"):
        spec = ports.inputs.get(name)
        if spec is None:
            raise InvalidRequestError(f"There is no input {_show(name)}; the model takes {_quote(ports.inputs)}.")
        size = _read_binary_size(entry, name) if "parameters" in entry else None
        if size is None:
            tensors[name] = _read_tensor(entry, spec)
        else:
            if "data" in entry:
                raise InvalidRequestError(f"Input {name!r} has both data and a binary_data_size.")
            if raw is None or at + size > raw.nbytes:
                left = 0 if raw is None else raw.nbytes - at
                raise InvalidRequestError(f"Input {name!r} has {size} bytes behind the JSON, of which {left} came.")
            shape = _read_shape(entry, spec)
            tensors[name] = array_from_bytes(raw[at : at + size], spec.datatype, shape, f"Input {name!r}")
            at += size
    if raw is not None and at < raw.nbytes:
        raise InvalidRequestError(f"{raw.nbytes - at} bytes behind the JSON belong to no input.")
    if len(tensors) < len(ports.inputs):
        missing = next(name for name in ports.inputs if name not in tensors)
        took, got = _quote(ports.inputs), _quote(tensors)
        raise InvalidRequestError(f"The input {missing!r} is missing; the model takes {took}, got {got}.")
    binary = False if parameters is None else parameters.get("binary_data_output", False)
    if not isinstance(binary, bool):
        raise InvalidRequestError("The request has a parameter 'binary_data_output' that is not true or false.")
    outputs = _read_outputs(record.get("outputs"), ports, binary)
    names = ports.names if outputs is ports.all[binary] else tuple([output.name for output in outputs])
    if parameters is None:
        return InferRequest(tensors, outputs, names)
    return InferRequest(tensors, outputs, names, _read_timeout(parameters), _read_priority(parameters) == URGENT)


def fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    """Return whether a shape is one that the declared shape allows, -1 being free."""
    return len(shape) == len(declared) and not [
        got for got, want in zip(shape, declared, strict=True) if want not in (got, -1)
    ]


def _read_tensor(entry: Mapping[str, Any], spec: TensorSpec) -> Array:
    what = f"Input {spec.name!r}"
    shape = _read_shape(entry, spec)
    if spec.datatype == "FP16":
        raise InvalidRequestError(f"{what} is FP16, which the protocol has no JSON form for; send it as binary data.")
    data = entry.get("data")
    if isinstance(data, np.ndarray):
        return array_from_array(data, shape, what)
    if not isinstance(data, list):
        raise InvalidRequestError(f"{what} has no list of data.")
    return array_from_data(data, spec.datatype, shape, what)


def _read_shape(entry: Mapping[str, Any], spec: TensorSpec) -> list[int]:
    datatype, shape = entry.get("datatype"), entry.get("shape")
    if datatype != spec.datatype:
        if not isinstance(datatype, str):  # of any depth: Python does not show all that orjson reads
            raise InvalidRequestError(f"Input {spec.name!r} has a datatype that is not a string.")
        if datatype not in DTYPES:
            known = ", ".join(DTYPES)
            raise InvalidRequestError(
                f"Input {spec.name!r} has the datatype {_show(datatype)}; the protocol knows {known}."
            )
        raise InvalidRequestError(f"Input {spec.name!r} has the datatype {datatype}; the model takes {spec.datatype}.")
    if not isinstance(shape, list) or not _INTEGERS.issuperset(map(type, shape)) or (shape and min(shape) < 0):
        raise InvalidRequestError(f"Input {spec.name!r} has a shape that is not a list of non-negative integers.")
    if not fits(shape, spec.shape):  # before they are multiplied: there may be millions of them
        takes = list(spec.shape)
        raise InvalidRequestError(
            f"Input {spec.name!r} has the shape {_show(shape)}; the model takes {takes}, -1 being free."
        )
    if 0 in shape and prod(size for size in shape if size) > _LARGEST_PRODUCT:
        raise InvalidRequestError(f"Input {spec.name!r} has the shape {shape}, whose sizes are too large.")
    return shape


def _read_binary_size(entry: Mapping[str, Any], name: str) -> int | None:
    """Return how many bytes behind the JSON an input has; None if it has its data in the JSON."""
    parameters = entry["parameters"]
    if not isinstance(parameters, dict):
        raise InvalidRequestError(f"Input {name!r}: its parameters are not an object.")
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise InvalidRequestError(f"Input {name!r} has a binary_data_size that is not a non-negative integer.")
    return size


def _read_outputs(entries: Any, ports: ModelSignature, binary: bool) -> tuple[OutputRequest, ...]:
    """Return the outputs asked for: those listed, or all of them."""
    if entries is not None and entries != []:
        chosen = []
        for name, entry in _read_named(entries, "outputs", "output"):
            if name not in ports.outputs:
                raise InvalidRequestError(f"There is no output {_show(name)}; the model gives {_quote(ports.outputs)}.")
            chosen.append(_read_output(entry, ports.outputs[name], ports))
        return tuple(chosen)
    if ports.has_half and not binary:
        for spec in ports.outputs.values():
            _refuse_half(spec)
    return ports.all[binary]


def _read_output(entry: Mapping[str, Any], spec: TensorSpec, ports: ModelSignature) -> OutputRequest:
    parameters = entry.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidRequestError(f"Output {spec.name!r}: its parameters are not an object.")
    binary, classes = parameters.get("binary_data", False), parameters.get("classification")
    name = spec.name
    if not isinstance(binary, bool):
        raise InvalidRequestError(f"Output {name!r} has a parameter 'binary_data' that is not true or false.")
    if classes is None:
        if not binary:
            _refuse_half(spec)
        return ports.one[binary][name]
    if type(classes) is not int or classes < 1:
        raise InvalidRequestError(f"Output {name!r} has a classification that is not a positive integer.")
    if spec.datatype in ("BYTES", "BOOL"):
        raise InvalidRequestError(f"Output {name!r} is {spec.datatype}, which has no highest classes.")
    return OutputRequest(name, binary, classes)


def _refuse_half(spec: TensorSpec) -> None:
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
    priority = parameters.get("priority", 0)
    if type(priority) is not int or not 0 <= priority <= 2:
        raise InvalidRequestError("The request's priority is not 0, 1 (before others) or 2.")
    return priority


def _read_named(entries: Any, field: str, kind: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield the objects of a list with their names, which must be different strings."""
    if not isinstance(entries, list):
        raise InvalidRequestError(f"The request has no list {field!r}.")
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise InvalidRequestError(f"The {kind} at index {index} is not an object with a name.")
        if entry["name"] in seen:
            raise InvalidRequestError(f"The {kind} {_show(entry['name'])} is given twice.")
        seen.add(entry["name"])
        yield entry["name"], entry


def _show(value: str | list[int]) -> str:
    """Return a value of the client's as a sentence quotes it, in short."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"


def _quote(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"

"""The inputs of an infer request: name, datatype, shape, and the data in the JSON or after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np

from normfold.contract.manifest import TensorSpec
from normfold.service.codec.binary_tensors import array_from_bytes
from normfold.service.codec.json_tensors import DTYPES, Array, array_from_array, array_from_data
from normfold.service.codec.signature import ModelSignature, shape_matches
from normfold.service.errors import NO_SHARED_MEMORY, InvalidRequestError

_INTEGERS = frozenset({int})

_MAX_EMPTY_PRODUCT = 2**20
"""Limit on the product of the other sizes of a tensor with a size of 0: its rows need no byte of the body."""

_MAX_QUOTED_CHARS = 80


def read_inputs(record: Mapping[str, Any], signature: ModelSignature, binary: memoryview | None) -> dict[str, Array]:
    """Return the tensors of an infer request by name.

    Args:
        record: the parsed JSON.
        signature: the model's.
        binary: the bytes after the JSON; None if the body ends with the JSON.

    Raises:
        InvalidRequestError: an input is missing, unknown or given twice, its datatype, shape or data do not fit the
            model, or bytes are left over.
    """
    tensors: dict[str, Array] = {}
    at = 0
    for name, entry in read_named(record.get("inputs"), "inputs", "input"):
        spec = signature.inputs.get(name)
        if spec is None:
            raise InvalidRequestError(
                f"There is no input {quote(name)}; the model takes {quote_names(signature.inputs)}."
            )
        parameters = entry.get("parameters")
        size = None if parameters is None else _read_binary_size(parameters, name)
        if size is None:
            tensors[name] = _read_json_tensor(entry, spec)
        else:
            if entry.get("data") is not None:
                raise InvalidRequestError(f"Input {name!r} has both data and a binary_data_size.")
            if binary is None or at + size > binary.nbytes:
                left = 0 if binary is None else binary.nbytes - at
                raise InvalidRequestError(
                    f"Input {name!r} has a binary_data_size of {size}, and the body has {left} bytes left for it."
                )
            shape = _read_shape(entry, spec)
            tensors[name] = array_from_bytes(binary[at : at + size], spec.datatype, shape, f"Input {name!r}")
            at += size
    if binary is not None and at < binary.nbytes:
        raise InvalidRequestError(f"{binary.nbytes - at} bytes after the JSON belong to no input.")
    if len(tensors) < len(signature.inputs) and (missing := _first_missing(tensors, signature)) is not None:
        takes, got = quote_names(signature.inputs), quote_names(tensors)
        raise InvalidRequestError(f"The input {missing!r} is missing; the model takes {takes}, got {got}.")
    return tensors


def _first_missing(tensors: Mapping[str, Array], signature: ModelSignature) -> str | None:
    """Return the first input that has no default and no tensor."""
    return next((name for name in signature.required_inputs if name not in tensors), None)


def read_named(entries: Any, field: str, kind: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield the names and the objects of a list of inputs or outputs.

    Raises:
        InvalidRequestError: it is not a list of objects with names, or a name is given twice.
    """
    if not isinstance(entries, list):
        raise InvalidRequestError(f"The request has no list {field!r}.")
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise InvalidRequestError(f"The {kind} at index {index} is not an object with a name.")
        if entry["name"] in seen:
            raise InvalidRequestError(f"The {kind} {quote(entry['name'])} is given twice.")
        seen.add(entry["name"])
        yield entry["name"], entry


def reject_shared_memory(parameters: Any, what: str) -> None:
    """Reject a tensor that lies in shared memory, or is to be written there.

    Args:
        parameters: of the input or output.
        what: the tensor, as messages name it.

    Raises:
        InvalidRequestError: the parameters name a region.
    """
    if parameters and "shared_memory_region" in parameters:
        raise InvalidRequestError(f"{what} has a shared_memory_region; {NO_SHARED_MEMORY}")


def quote(value: str | list[int]) -> str:
    """Return a value of the client's for an error message, shortened."""
    text = repr(value)
    return text if len(text) <= _MAX_QUOTED_CHARS else f"{text[: _MAX_QUOTED_CHARS - 1]}…"


def quote_names(names: Iterable[str]) -> str:
    """Return names for an error message."""
    return ", ".join(map(repr, names)) or "none"


def _read_json_tensor(entry: Mapping[str, Any], spec: TensorSpec) -> Array:
    what = f"Input {spec.name!r}"
    shape = _read_shape(entry, spec)
    if isinstance(entry.get("data"), memoryview):  # the raw contents of gRPC
        return array_from_bytes(entry["data"], spec.datatype, shape, what)
    if spec.datatype == "FP16":
        reject_shared_memory(entry.get("parameters"), what)
        raise InvalidRequestError(f"{what} is FP16, which the protocol has no JSON form for; send it as binary data.")
    data = entry.get("data")
    if isinstance(data, np.ndarray):
        return array_from_array(data, shape, what)
    if not shape and isinstance(data, (int, float, str)):  # nested as a scalar is: not at all
        data = [data]
    if not isinstance(data, list):
        reject_shared_memory(entry.get("parameters"), what)
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
                f"Input {spec.name!r} has the datatype {quote(datatype)}; the protocol knows {known}."
            )
        raise InvalidRequestError(f"Input {spec.name!r} has the datatype {datatype}; the model takes {spec.datatype}.")
    if not isinstance(shape, list) or not _INTEGERS.issuperset(map(type, shape)) or (shape and min(shape) < 0):
        raise InvalidRequestError(f"Input {spec.name!r} has a shape that is not a list of non-negative integers.")
    if not shape_matches(shape, spec.shape):  # before they are multiplied: there may be millions of them
        takes = list(spec.shape)
        raise InvalidRequestError(
            f"Input {spec.name!r} has the shape {quote(shape)}; the model takes {takes}, -1 being free."
        )
    if 0 in shape and prod(size for size in shape if size) > _MAX_EMPTY_PRODUCT:
        raise InvalidRequestError(f"Input {spec.name!r} has the shape {shape}, whose sizes are too large.")
    return shape


def _read_binary_size(parameters: Any, name: str) -> int | None:
    """Return how many bytes after the JSON an input has; None if its data is in the JSON."""
    if not isinstance(parameters, dict):
        raise InvalidRequestError(f"Input {name!r}: its parameters are not an object.")
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise InvalidRequestError(f"Input {name!r} has a binary_data_size that is not a non-negative integer.")
    return size

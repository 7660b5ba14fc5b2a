"""The Open Inference Protocol's infer request and response, in JSON.

    request   {id?, parameters?, inputs: [{name, shape, datatype, parameters?, data}], outputs?: [{name, parameters?}]}
    response  {id?, model_name, model_version, outputs: [{name, shape, datatype, data}]}, data flat

Fields that the protocol does not name are ignored, since real clients send some (KServe's sends `model_name`); of a
key that is given twice the last one holds. FP16 has no JSON form in the protocol: it is refused both ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from contract.manifest import TensorSpec
from service.errors import WireError
from service.tensors import DTYPES, Array, array_from_data, writable


@dataclass(frozen=True)
class InferRequest:
    """A request whose tensors fit the model.

    Attributes:
        tensors: input name to array, in the datatype and shape that the model declares.
        outputs: names of the outputs to answer, in order.
    """

    tensors: dict[str, Array]
    outputs: tuple[str, ...]


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a body that must be one JSON object.

    Raises:
        WireError: not JSON (NaN and Infinity are not), or not an object.
    """
    if not body:
        raise WireError("The body is empty; a JSON object is expected.")
    try:
        record = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise WireError(f"The body is not JSON: {error}.") from None
    if not isinstance(record, dict):
        raise WireError("The body is JSON, but not an object.")
    return record


def read_id(record: Mapping[str, Any]) -> str | None:
    """Return the request's id, or None if it has none.

    Raises:
        WireError: the id is not a string.
    """
    identity = record.get("id")
    if identity is not None and not isinstance(identity, str):
        raise WireError("The id is not a string.")
    return identity


def decode_request(
    record: Mapping[str, Any], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> InferRequest:
    """Read the tensors of an infer request, and hold them against what the model declares.

    Args:
        record: the parsed body.
        inputs: the model's.
        outputs: the model's.

    Raises:
        WireError: anything that is missing, unknown, doubled, of another type or shape, or out of range.
    """
    _read_object(record.get("parameters", {}), "The request's parameters")
    wanted = {spec.name: spec for spec in inputs}
    tensors: dict[str, Array] = {}
    for name, entry in _read_named(record.get("inputs"), "inputs", "input"):
        if name not in wanted:
            raise WireError(f"There is no input {name!r}; the model takes {_quote(wanted)}.")
        tensors[name] = _read_tensor(entry, wanted[name])
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise WireError(
            f"The input {missing[0]!r} is missing; the model takes {_quote(wanted)}, got {_quote(tensors)}."
        )
    return InferRequest(tensors, _read_outputs(record.get("outputs"), outputs))


def encode_response(
    model: str,
    version: int,
    outputs: Mapping[str, Array],
    specs: Sequence[TensorSpec],
    identity: str | None = None,
) -> bytes:
    """Write an infer response.

    Args:
        model: its name.
        version: its version.
        outputs: name to array, in the order to answer.
        specs: the model's outputs.
        identity: the request's id, if it gave one.

    Raises:
        UnwritableOutputError: an output holds NaN or Infinity.
    """
    datatypes = {spec.name: spec.datatype for spec in specs}
    record: dict[str, Any] = {} if identity is None else {"id": identity}
    record |= {"model_name": model, "model_version": str(version)}
    record["outputs"] = [
        {
            "name": name,
            "datatype": datatypes[name],
            "shape": list(array.shape),
            "data": writable(array.reshape(-1), name),
        }
        for name, array in outputs.items()
    ]
    return orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY)


def fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    """Return whether a shape is one that the declared shape allows, -1 being free."""
    return len(shape) == len(declared) and all(want in (-1, got) for got, want in zip(shape, declared, strict=True))


def _read_tensor(entry: Mapping[str, Any], spec: TensorSpec) -> Array:
    what = f"Input {spec.name!r}"
    _read_object(entry.get("parameters", {}), f"{what}: its parameters")
    datatype, shape = entry.get("datatype"), entry.get("shape")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise WireError(f"{what} has the datatype {datatype!r}; the protocol knows {', '.join(DTYPES)}.")
    if datatype != spec.datatype:
        raise WireError(f"{what} has the datatype {datatype}; the model takes {spec.datatype}.")
    if not isinstance(shape, list) or any(type(size) is not int or size < 0 for size in shape):
        raise WireError(f"{what} has a shape that is not a list of non-negative integers.")
    if not fits(shape, spec.shape):
        raise WireError(f"{what} has the shape {shape}; the model takes {list(spec.shape)}, -1 being free.")
    if datatype == "FP16":
        raise WireError(f"{what} is FP16, which the protocol has no JSON form for.")
    if not isinstance(entry.get("data"), list):
        raise WireError(f"{what} has no list of data.")
    return array_from_data(entry["data"], datatype, shape, what)


def _read_outputs(entries: Any, specs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Return the outputs asked for: those listed, or all of them."""
    known = {spec.name: spec.datatype for spec in specs}
    chosen = list(known)
    if entries:
        chosen = []
        for name, entry in _read_named(entries, "outputs", "output"):
            if name not in known:
                raise WireError(f"There is no output {name!r}; the model gives {_quote(known)}.")
            _read_object(entry.get("parameters", {}), f"Output {name!r}: its parameters")
            chosen.append(name)
    for name in chosen:
        if known[name] == "FP16":
            raise WireError(f"Output {name!r} is FP16, which the protocol has no JSON form for; list other outputs.")
    return tuple(chosen)


def _read_named(entries: Any, field: str, kind: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield the objects of a list with their names, which must be different strings."""
    if not isinstance(entries, list):
        raise WireError(f"The request has no list {field!r}.")
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise WireError(f"The {kind} at index {index} is not an object with a name.")
        if entry["name"] in seen:
            raise WireError(f"The {kind} {entry['name']!r} is given twice.")
        seen.add(entry["name"])
        yield entry["name"], entry


def _read_object(value: Any, what: str) -> None:
    if not isinstance(value, dict):
        raise WireError(f"{what} are not an object.")


def _quote(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"

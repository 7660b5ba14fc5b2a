"""Tensors of a Triton configuration beside those of a network.

With max_batch_size over 0 the configuration leaves out the first axis of every tensor, the rows, which then must be
free in the network. `dims` are what clients send and receive; where `reshape` is given, the network has that instead.

Source: github.com/triton-inference-server/server, docs/user_guide/model_configuration.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from normfold.contract.manifest import DATATYPES, TensorSpec
from normfold.export.errors import TritonError
from normfold.export.triton.model_config_pb2 import ModelConfig, ModelInput, ModelOutput

_DATA_TYPE = ModelInput.DESCRIPTOR.fields_by_name["data_type"].enum_type
assert _DATA_TYPE is not None  # the .proto file has it

_NAMES = {value.number: value.name for value in _DATA_TYPE.values}
_NUMBERS = {name: number for number, name in _NAMES.items()}

CONFIG_DATATYPES = {
    datatype: _NUMBERS[f"TYPE_{'STRING' if datatype == 'BYTES' else datatype}"] for datatype in DATATYPES
}
"""Triton's number of each datatype of the protocol."""


def check_tensors(
    config: ModelConfig, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], with_default: Iterable[str]
) -> list[str]:
    """Check that a configuration describes a network, as Triton does before it loads it.

    Args:
        config: inputs and outputs that it does not list are taken from the network.
        inputs: of the network, without those that have a default.
        outputs: of the network.
        with_default: names of the inputs that have one.

    Returns:
        Sentences on what clients see otherwise here than with Triton.

    Raises:
        TritonError: a tensor has another name, datatype or shape in the network.
    """
    takes, gives = ({spec.name: spec for spec in specs} for specs in (inputs, outputs))
    optional = frozenset(with_default)
    batched = config.max_batch_size > 0
    notes: list[str] = []
    for one in config.input:
        if one.name not in optional:
            notes += _check_tensor(one, takes, "input", batched)
            if one.optional:
                notes.append(f"Input {one.name!r} is optional for Triton; the network has no default: clients send it.")
    for two in config.output:
        notes += _check_tensor(two, gives, "output", batched)
    if config.input and (others := takes.keys() - {one.name for one in config.input}):
        notes.append(f"The configuration does not list {_names(others)}; the network takes it, so clients send it.")
    if config.output and (others := gives.keys() - {one.name for one in config.output}):
        notes.append(f"The configuration does not list {_names(others)}; here it is an output as well.")
    return notes


def _check_tensor(
    tensor: ModelInput | ModelOutput, specs: Mapping[str, TensorSpec], kind: str, batched: bool
) -> Iterator[str]:
    spec = specs.get(tensor.name)
    what = f"{kind} {tensor.name!r}"
    if spec is None:
        raise TritonError(f"The configuration has an {what}; the network has {_names(specs)}.")
    if tensor.data_type != CONFIG_DATATYPES[spec.datatype]:
        named = _NAMES.get(tensor.data_type, tensor.data_type)
        raise TritonError(f"The {what} has data_type {named} in the configuration, {spec.datatype} in the network.")
    rows = (-1,) if batched else ()
    seen = (*rows, *tensor.dims)
    shape = (*rows, *tensor.reshape.shape) if tensor.HasField("reshape") else seen
    if batched and spec.shape[:1] != (-1,):
        raise TritonError(
            f"The {what} has the shape {list(spec.shape)} in the network, whose first axis is not free; "
            "max_batch_size must be 0."
        )
    if len(shape) != len(spec.shape) or any(own not in (-1, size) for own, size in zip(spec.shape, shape, strict=True)):
        raise TritonError(
            f"The {what} has the shape {list(shape)} in the configuration, {list(spec.shape)} in the network."
        )
    if seen != shape:
        yield f"Clients of Triton see the {what} with the shape {list(seen)}; here it has {list(spec.shape)} (reshape)."
    elif shape != spec.shape:
        yield f"The {what} has the shape {list(shape)} with Triton; here it is {list(spec.shape)}, -1 being free."


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"

"""The inputs and outputs of a model, prepared for decoding requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from normfold.contract.manifest import TensorSpec


class OutputRequest(NamedTuple):
    """An output that a request asks for.

    Attributes:
        name: of the output.
        binary: whether it is returned as bytes after the JSON.
        classes: number of highest classes to return (the classification extension); None returns the tensor.
    """

    name: str
    binary: bool = False
    classes: int | None = None


class ModelSignature:
    """Inputs and outputs of a model.

    Args:
        inputs: the manifest's.
        outputs: the manifest's.
        optional_inputs: inputs of the network that have a default.

    Attributes:
        inputs: by name, optional ones included.
        required_inputs: by name.
        outputs: by name.
        output_requests: requests for an output without classes, by `binary` and name.
        all_outputs: requests for all outputs, by `binary`.
        output_names: in the manifest's order.
        has_text_input: whether an input has the datatype BYTES.
        has_fp16_output: whether an output has the datatype FP16, which has no JSON form.
    """

    def __init__(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], optional_inputs: Sequence[TensorSpec] = ()
    ) -> None:
        self.required_inputs = {spec.name: spec for spec in inputs}
        self.inputs = self.required_inputs | {spec.name: spec for spec in optional_inputs}
        self.outputs = {spec.name: spec for spec in outputs}
        self.output_requests = {
            binary: {spec.name: OutputRequest(spec.name, binary) for spec in outputs} for binary in (False, True)
        }
        self.all_outputs = {binary: tuple(self.output_requests[binary].values()) for binary in (False, True)}
        self.output_names = tuple(self.outputs)
        self.has_text_input = any(spec.datatype == "BYTES" for spec in self.inputs.values())
        self.has_fp16_output = any(spec.datatype == "FP16" for spec in outputs)


def shape_matches(shape: Sequence[int], declared: Sequence[int]) -> bool:
    """Return whether a shape is allowed by a declared shape, in which -1 is any size."""
    return len(shape) == len(declared) and not [
        got for got, want in zip(shape, declared, strict=True) if want not in (got, -1)
    ]

"""The network of module:factory, and its ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from normfold._shared.sources.source import Source, parse_shape
from normfold.errors import ArgumentError

if TYPE_CHECKING:
    from torch import nn


def build_network(source: Source, shape: tuple[int, ...], classes: int | None = None) -> nn.Module:
    """Return a network as it was given, or that of a module:factory: in eval mode where weights are given, otherwise as
    it was returned.

    Raises:
        ArchitectureError, WeightsError: it cannot be built, or the weights are not its own.
    """
    if source.network is not None:
        return source.network
    from normfold.models.architectures.registry import Architecture, build, parse_options
    from normfold.models.weight_files.load import WeightsFile, load_weights

    given = source.arguments
    options = dict(given) if isinstance(given, Mapping) else parse_options(given)
    network = build(Architecture(name=source.text, options=options, input_shape=shape, classes=classes))
    if source.weights is not None:
        load_weights(network, WeightsFile(source.weights, source.weights_key, source.strip_prefix, source.partial))
        network.eval()
    return network


def network_to_onnx(source: Source, target: Path) -> None:
    """Write the ONNX file of a torch network, or of that of a module:factory.

    Raises:
        ArgumentError: the shape of a sample is missing, or the factory returned its network in train mode.
        NormfoldError: it cannot be built or exported.
    """
    from normfold.models.errors import TrainModeError
    from normfold.models.onnx.to_onnx import OPSET, InputSpec, to_onnx

    if source.input_shape is None:
        raise ArgumentError(
            f"{source.kind.capitalize()} needs `input_shape`, the shape of one sample, such as 3x224x224."
        )
    shape = parse_shape(source.input_shape)
    network = build_network(source, shape)
    inputs = {"input": InputSpec(shape)}
    try:
        to_onnx(network, target, inputs, opset=source.opset or OPSET, dynamic_size=source.dynamic_size)
    except TrainModeError as error:
        if source.network is not None:
            raise
        raise ArgumentError(
            f"{source.text!r} returned its network in train mode (layer {error.layers[0]!r}, for one), and no trained "
            "weights; give `weights`, or let it load them itself and return network.eval()."
        ) from None

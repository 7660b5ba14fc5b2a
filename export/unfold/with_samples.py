"""BatchNormalization behind every layer of a folded network, with the statistics that samples have there."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.adapt.activations import Activations
from normfold.export.adapt.layer_inputs import layer_inputs
from normfold.export.adapt.samples import Samples
from normfold.export.arrays import Array
from normfold.export.errors import SampleStatisticsError, UnfoldError
from normfold.export.graph.editor import Editor
from normfold.export.graph.inference import infer_shapes
from normfold.export.graph.nodes import node_label
from normfold.export.unfold.insert import insert_batchnorm, set_parameters
from normfold.export.unfold.layers import FoldedLayer, find_layers
from normfold.export.unfold.parameters import bias_parameters, neutral_parameters
from normfold.export.unfold.report import UnfoldedLayer, UnfoldReport


def unfold_with_samples(
    model: ir.Model, samples: Samples, progress: ProgressCallback = ignore_progress
) -> UnfoldReport:
    """Put a BatchNormalization behind each layer of a model, in place; it takes the layer's bias.

    Its mean and variance are those of what the layer gives on the samples, its scale and shift leave the function of
    the network as it was.

    Args:
        model: from `export.onnx_io.model_file.load_model`; its functions are inlined.
        samples: what the network takes.
        progress: called with each step as it begins.

    Raises:
        UnfoldError: there is no layer to put one behind.
        NotAdaptableError: the model cannot be run on the samples.
        SampleError: the samples cannot be cut into batches of the size that the model fixes.
        SampleStatisticsError: what the samples give is not finite.
        WriteError: the disk has no space for the activations.
    """
    common_passes.InlinePass()(model)
    infer_shapes(model, afresh=True)
    layers, left = find_layers(model)
    if not layers:
        raise UnfoldError(" ".join(["The model has no layer to put a BatchNormalization behind.", *left[:1]]))
    editor = Editor(model.graph)
    nodes = [_insert(editor, layer) for layer in layers]
    moments = []
    with closing(layer_inputs(model, nodes, samples, batchable=True)) as inputs:
        for number, (layer, node, activations) in enumerate(zip(layers, nodes, inputs, strict=True), start=1):
            progress(f"unfolding {number} of {len(layers)}: {node_label(layer.node)}")
            moments.append(_moments(activations, node))
    for layer, node, (mean, var) in zip(layers, nodes, moments, strict=True):
        _replace_neutral(editor, layer, node, mean, var)
    common_passes.RemoveUnusedNodesPass()(model)  # what made a bias
    unfolded = [
        UnfoldedLayer(node_label(node), node_label(layer.node), layer.channels)
        for layer, node in zip(layers, nodes, strict=True)
    ]
    return UnfoldReport(tuple(unfolded), tuple(left))


def _insert(editor: Editor, layer: FoldedLayer) -> ir.Node:
    """Put a BatchNormalization behind a layer that changes nothing, so that the value between them can be sampled."""
    label = f"{node_label(layer.node)}.batchnorm"
    return insert_batchnorm(editor, layer.value, label, neutral_parameters(layer.channels, layer.dtype), layer.dtype)


def _replace_neutral(editor: Editor, layer: FoldedLayer, node: ir.Node, mean: Array, var: Array) -> None:
    """Give a BatchNormalization the statistics of what it gets, and the bias of the layer before it.

    The layer keeps a bias that is too small beside the mean to come back from the parameters as it was.

    Raises:
        SampleStatisticsError: the statistics are not finite.
    """
    parameters = bias_parameters(mean - layer.bias, var, layer.bias, layer.dtype)
    if layer.remove_bias is not None:
        if parameters.add_only(layer.bias, layer.value.dtype or layer.dtype):
            layer.remove_bias(editor)
        else:
            parameters = bias_parameters(mean, var, np.zeros_like(layer.bias), layer.dtype)
    if not parameters.are_finite:
        raise SampleStatisticsError(node_label(node))
    set_parameters(editor, node, parameters, layer.dtype)


def _moments(activations: Activations, node: ir.Node) -> tuple[Array, Array]:
    """Return mean and biased variance of each channel of a node's input, (C,), float64, over all that it holds."""
    value = node.inputs[0]
    name = (value.name if value is not None else None) or ""
    total, count = np.zeros(()), 0
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is an error of the caller's
        for _, array in activations.chunks(name):
            total = total + _per_channel(array).sum(axis=(0, 2), dtype=np.float64)
            count += array.size // array.shape[1]
        mean = total / max(1, count)
        squares = np.zeros(())
        for _, array in activations.chunks(name):
            squares = squares + ((_per_channel(array) - mean[:, None]) ** 2).sum(axis=(0, 2))
    return mean, squares / max(1, count)


def _per_channel(array: np.ndarray) -> np.ndarray:
    return array.reshape(array.shape[0], array.shape[1], -1)

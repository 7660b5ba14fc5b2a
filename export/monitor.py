"""`monitor.onnx`: a network up to a few BatchNormalization layers, giving what their outputs are like.

A folded layer still knows its normal state: the value that carries it has, in each channel, the mean `shift` and the
variance `scale² · running_var / (running_var + epsilon)`. What the graph gives is described in `contract.monitor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from contract.monitor import WatchedLayer
from export.batchnorm import BatchNorm
from export.editor import Editor
from export.fold import fold
from export.onnx_file import check_result, load_model, save_model
from export.opsets import opset_of
from export.pixels import FromPixels
from export.shapes import sizes_of

MOST_LAYERS = 3
"""Watched in a network: the first, and those a third and two thirds down. The deepest layers hold most of the weights,
which the service would hold twice, and what shifts inputs shows before them."""

_AXES_ARE_INPUTS = 18
"""Opset of ReduceMean from which on."""


@dataclass(frozen=True)
class _Carried:
    """A BatchNormalization, and the value of the graph that carries what it gave out."""

    node: str
    batchnorm: BatchNorm
    value: ir.Value


def save_monitor(source: Path, path: Path, pixels: FromPixels | None = None) -> list[WatchedLayer]:
    """Write the graph that watches a network.

    Args:
        source: the unfolded model.
        path: to write to.
        pixels: the served network takes 8-bit pixels, and so does this.

    Returns:
        The layers that it watches, from the front to the back; none, and nothing is written, where no value of the
        network carries what a BatchNormalization gave out.
    """
    model = load_model(source)
    report = fold(model, merging=False, pixels=pixels)  # a merged layer carries no one BatchNormalization's output
    values = {value.name: value for node in model.graph for value in node.outputs}
    carried = [
        _Carried(entry.node, report.parameters[entry.node], values[entry.carrier])
        for entry in report.entries
        if entry.carrier in values and entry.node in report.parameters
    ]
    chosen = _spread([one for one in carried if _has_channels(one)])
    if not chosen:
        return []
    editor = Editor(model.graph)
    layers = [_watch(editor, one) for one in chosen]
    outputs = {value.name: value for node in model.graph for value in node.outputs}
    del model.graph.outputs[:]
    model.graph.outputs.extend(outputs[name] for layer in layers for name in (layer.means, layer.squares))
    common_passes.RemoveUnusedNodesPass()(model)
    check_result(model)
    save_model(model, path)
    return layers


def _has_channels(carried: _Carried) -> bool:
    sizes = sizes_of(carried.value)
    return sizes is not None and len(sizes) >= 2 and sizes[1] == carried.batchnorm.scale.size


def _spread(carried: Sequence[_Carried]) -> list[_Carried]:
    places = sorted({len(carried) * step // MOST_LAYERS for step in range(MOST_LAYERS)})
    return [carried[place] for place in places] if carried else []


def _watch(editor: Editor, carried: _Carried) -> WatchedLayer:
    """Put behind a value what gives its channels' means and mean squares, row by row."""
    batchnorm, value = carried.batchnorm, carried.value
    sizes = sizes_of(value)
    assert sizes is not None  # or it would not have been chosen
    shape = (1, -1, *[1] * (len(sizes) - 2))
    alive = batchnorm.scale != 0
    factor = np.divide(1, np.abs(batchnorm.scale), out=np.zeros_like(batchnorm.scale), where=alive)
    opset = max(opset_of(node) for node in editor.graph)

    def add(op_type: str, *inputs: ir.Value, **attributes: int | Sequence[int]) -> ir.Value:
        node = ir.node(op_type, list(inputs), attributes=dict(attributes))
        node.name = editor.unused_name(f"{carried.node}.{op_type.lower()}")
        node.outputs[0].name = editor.unused_name(f"{node.name}.out")
        editor.graph.append(node)
        return node.outputs[0]

    def constant(name: str, array: np.ndarray) -> ir.Value:
        return editor.add_initializer(ir.Tensor(array), editor.unused_name(f"{carried.node}.{name}"))

    def mean(of: ir.Value, what: str) -> ir.Value:
        axes = list(range(2, len(sizes)))
        if not axes:
            result = add("Identity", of)
        elif opset >= _AXES_ARE_INPUTS:
            result = add("ReduceMean", of, constant("axes", np.array(axes, np.int64)), keepdims=0)
        else:
            result = add("ReduceMean", of, axes=axes, keepdims=0)
        result.name = editor.unused_name(f"{carried.node}.{what}")
        result.shape, result.type = ir.Shape([sizes[0], batchnorm.scale.size]), ir.TensorType(ir.DataType.FLOAT)
        return result

    number = value if value.dtype == ir.DataType.FLOAT else add("Cast", value, to=int(ir.DataType.FLOAT))
    centred = add("Sub", number, constant("normal", batchnorm.shift.astype(np.float32).reshape(shape)))
    u = add("Mul", centred, constant("factor", factor.astype(np.float32).reshape(shape)))
    means, squares = mean(u, "means"), mean(add("Mul", u, u), "squares")
    normal = np.where(alive, batchnorm.running_var / (batchnorm.running_var + batchnorm.epsilon), 0.0)
    assert means.name is not None
    assert squares.name is not None
    return WatchedLayer(
        node=carried.node, means=means.name, squares=squares.name, variances=tuple(map(float, np.clip(normal, 0, 1)))
    )

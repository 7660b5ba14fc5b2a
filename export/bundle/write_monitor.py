"""`monitor.onnx`: a network up to a few BatchNormalization layers, giving the moments of their outputs.

The moments of a folded layer's output in training are known: in each channel the mean `shift` and the variance
`scale² · running_var / (running_var + epsilon)`. See `contract.drift.monitor` for what the graph gives.

A channel with a scale near 0 carries its shift and the rounding of it. Divided by the scale, that rounding is of any
size, and another on another processor; one such channel outweighs all others of its layer. So it is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from normfold.contract.drift.monitor import MonitoredLayer
from normfold.contract.tables.preprocessing import TablePreprocessing
from normfold.export.bundle.evenly_spaced import evenly_spaced
from normfold.export.bundle.monitor_columns import monitor_columns
from normfold.export.fold.batchnorm_parameters import BatchNorm
from normfold.export.fold.fold import fold
from normfold.export.graph.editor import Editor
from normfold.export.graph.nodes import opset_of
from normfold.export.graph.pixels import FromPixels
from normfold.export.graph.shapes import Sizes, sizes_of
from normfold.export.onnx_io.model_file import check_result, load_model, save_model

MAX_LAYERS = 3
"""Layers monitored in a network: the first, and those a third and two thirds down. The deepest layers hold most of the
weights, which the service would hold twice, and a drift of the inputs shows before them."""

MIN_SCALE_ROUNDINGS = 100
"""Roundings that a channel's scale must be worth. u is then known to about a hundredth of its standard deviation, which
adds 0.0001 nats to a divergence at most; the lowest thresholds are about 0.001. 1,000 would in float16 leave out
channels with a scale as large as their shift."""

_AXES_ARE_INPUTS = 18
"""First opset whose ReduceMean takes axes as an input."""


@dataclass(frozen=True)
class _NormOutput:
    """A BatchNormalization, and the value of the graph that holds what it gave out."""

    node: str
    batchnorm: BatchNorm
    value: ir.Value

    @property
    def live(self) -> npt.NDArray[np.int64]:
        """Numbers of the channels whose scale stands out from the rounding of the value, ascending.

        The value lies around `shift`, so it is rounded to eps · |shift|. Where `shift` is 0 it is as precise as numbers
        are, down to those so small that they lose digits (`tiny`).
        """
        norm = self.batchnorm
        # Doubles are made float32 before anything else; the CPU has no layers in bfloat16.
        limits = np.finfo(np.float16 if self.value.dtype == ir.DataType.FLOAT16 else np.float32)
        rounding = np.maximum(float(limits.eps) * np.abs(norm.shift), float(limits.tiny))
        alive = (np.abs(norm.scale) >= MIN_SCALE_ROUNDINGS * rounding) & np.isfinite(norm.running_var)
        return np.flatnonzero(alive)


def save_monitor(
    source: Path, path: Path, pixels: FromPixels | None = None, table: TablePreprocessing | None = None
) -> list[MonitoredLayer]:
    """Write the graph that monitors a network.

    Args:
        source: the unfolded model.
        path: to write to.
        pixels: the served network takes 8-bit pixels, and so does this.
        table: of the card of a network of tables; its columns are monitored too, before the layers.

    Returns:
        The layers that it monitors, from the front to the back; none, and nothing is written, where no value of the
        network holds what a BatchNormalization gave out, or none but the shifts of channels that are dead.
    """
    model = load_model(source)
    report = fold(model, merging=False, pixels=pixels)  # a merged layer holds no one BatchNormalization's output
    values = {value.name: value for node in model.graph for value in node.outputs}
    found = [
        _NormOutput(entry.node, report.parameters[entry.node], values[entry.output_value])
        for entry in report.entries
        if entry.output_value in values and entry.node in report.parameters
    ]
    rows = sizes_of(model.graph.inputs[0])
    able = [one for one in found if _has_channels(one) and _has_rows(one, rows) and one.live.size]
    chosen = [able[place] for place in evenly_spaced(len(able), MAX_LAYERS)]
    if not chosen:
        return []
    editor = Editor(model.graph)
    columns = [] if table is None else [monitor_columns(editor, table)]
    layers = columns + [_monitor(editor, one) for one in chosen]
    outputs = {value.name: value for node in model.graph for value in node.outputs}
    del model.graph.outputs[:]
    model.graph.outputs.extend(outputs[name] for layer in layers for name in (layer.means, layer.squares))
    common_passes.RemoveUnusedNodesPass()(model)
    check_result(model)
    save_model(model, path)
    return layers


def _has_channels(found: _NormOutput) -> bool:
    sizes = sizes_of(found.value)
    return sizes is not None and len(sizes) >= 2 and sizes[1] == found.batchnorm.scale.size


def _has_rows(found: _NormOutput, of_input: Sizes | None) -> bool:
    """Return whether the value's first axis is that of the input's rows: after a Reshape it may be another."""
    sizes = sizes_of(found.value)
    return sizes is not None and of_input is not None and sizes[:1] == of_input[:1]


def _monitor(editor: Editor, found: _NormOutput) -> MonitoredLayer:
    """Append nodes after a value that compute its live channels' means and mean squares, row by row."""
    batchnorm, value, live = found.batchnorm, found.value, found.live
    sizes = sizes_of(value)
    assert sizes is not None  # or it would not have been chosen
    shape = (1, -1, *[1] * (len(sizes) - 2))
    scale, shift, running_var = (each[live] for each in (batchnorm.scale, batchnorm.shift, batchnorm.running_var))
    opset = max(opset_of(node) for node in editor.graph)

    def add(op_type: str, *inputs: ir.Value, **attributes: int | Sequence[int]) -> ir.Value:
        node = ir.node(op_type, list(inputs), attributes=dict(attributes))
        node.name = editor.unused_name(f"{found.node}.{op_type.lower()}")
        node.outputs[0].name = editor.unused_name(f"{node.name}.out")
        editor.graph.append(node)
        return node.outputs[0]

    def constant(name: str, array: np.ndarray) -> ir.Value:
        return editor.add_initializer(ir.Tensor(array), editor.unused_name(f"{found.node}.{name}"))

    def mean(of: ir.Value, what: str) -> ir.Value:
        axes = list(range(2, len(sizes)))
        if not axes:
            result = add("Identity", of)
        elif opset >= _AXES_ARE_INPUTS:
            result = add("ReduceMean", of, constant("axes", np.array(axes, np.int64)), keepdims=0)
        else:
            result = add("ReduceMean", of, axes=axes, keepdims=0)
        result.name = editor.unused_name(f"{found.node}.{what}")
        result.shape, result.type = ir.Shape([sizes[0], live.size]), ir.TensorType(ir.DataType.FLOAT)
        return result

    selected = value if live.size == batchnorm.scale.size else add("Gather", value, constant("live", live), axis=1)
    if value.dtype != ir.DataType.FLOAT:
        selected = add("Cast", selected, to=int(ir.DataType.FLOAT))
    centred = add("Sub", selected, constant("shift", shift.astype(np.float32).reshape(shape)))
    u = add("Mul", centred, constant("factor", (1 / np.abs(scale)).astype(np.float32).reshape(shape)))
    means, squares = mean(u, "means"), mean(add("Mul", u, u), "squares")
    variances = running_var / (running_var + batchnorm.epsilon)
    assert means.name is not None
    assert squares.name is not None
    return MonitoredLayer(
        node=found.node,
        means=means.name,
        squares=squares.name,
        variances=tuple(map(float, np.clip(variances, 0, 1))),
        channels=None if live.size == batchnorm.scale.size else tuple(map(int, live)),
    )

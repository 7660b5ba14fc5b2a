"""Emulation of float16: the float32 network with a Cast to float16 and back behind every value that will be float16.

On a CPU, ONNX Runtime computes a float16 network in float32 and rounds only between some nodes: a value of 120,000 does
not overflow there, and does on a GPU. The Casts make it infinite, as a GPU would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from normfold.contract.atomic_write import temporary_folder
from normfold.contract.errors import SetupError
from normfold.export.arrays import Tensor
from normfold.export.errors import ModelFileError
from normfold.export.graph.editor import Editor
from normfold.export.onnx_io.model_file import IR_VERSION_IN_FILE, save_model
from normfold.export.onnx_io.runtime_check import in_one_line
from normfold.export.quantize.float16.plan import Plan
from normfold.export.quantize.float16.rewrite import round_to_float16
from normfold.export.verify.runner import Inputs, Outputs, start_onnxruntime

_FLOAT, _FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16

_SQUARED_IN_FLOAT32 = 1e12
"""Up to this magnitude sums of squares fit into float32."""


@dataclass
class Measured:
    """What runs of a network and of its emulation showed of one float32 value, so far.

    Attributes:
        magnitude: the largest finite absolute value in either.
        signal: sum of squares, of the float32 network.
        noise: sum of squares of the difference.
        is_finite: whether the emulation gave a finite number wherever the float32 network does.
    """

    magnitude: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    is_finite: bool = True

    def add(self, wanted: Tensor, got: Tensor) -> None:
        """Count a value of both networks, of one shape."""
        if not wanted.size:
            return
        finite, also_finite = np.isfinite(wanted), np.isfinite(got)
        if not (finite.all() and also_finite.all()):
            self.is_finite &= bool(also_finite[finite].all())
            self.magnitude = max(self.magnitude, _magnitude(wanted[finite]))
            wanted, got = wanted[finite & also_finite], got[finite & also_finite]
        self.magnitude = max(self.magnitude, _magnitude(wanted), _magnitude(got))
        if self.magnitude > _SQUARED_IN_FLOAT32:
            wanted, got = wanted.astype(np.float64), got.astype(np.float64)
        difference = (wanted - got).ravel()
        self.signal += float(np.vdot(wanted, wanted))
        self.noise += float(np.vdot(difference, difference))

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise in decibels; infinite where both are equal."""
        if not self.noise:
            return float("inf")
        return 10.0 * float(np.log10(self.signal / self.noise)) if self.signal else float("-inf")


def _magnitude(array: Tensor) -> float:
    return max(float(array.max()), -float(array.min())) if array.size else 0.0


def measure(source: Path, model: ir.Model, plan: Plan, keep_io: bool, batches: Iterable[Inputs]) -> dict[str, Measured]:
    """Run a float32 network and the emulation of its plan.

    Args:
        source: the network's file, for errors.
        model: the network; it stays as it is.
        plan: of its graph.
        keep_io: outputs of float32 nodes are not rounded.
        batches: inputs.

    Returns:
        By name of the value, in the order of the graph; an output of the graph counts after it was rounded, any other
        value before.

    Raises:
        ModelFileError: ONNX Runtime cannot run it.
    """
    made = [value for value in plan.values() if value.producer() is not None]
    rounded = {
        value.name for value in made if value.is_graph_output() and (plan.is_made_in_float16(value) or not keep_io)
    }
    names = [value.name or "" for value in made]
    run_float32, run_emulated = (_start(source, model, each, names) for each in (None, plan))
    measured = {name: Measured() for name in names}
    for inputs in batches:
        wanted, got = run_float32(inputs), run_emulated(inputs)
        for name, each in measured.items():
            each.add(wanted[name], round_to_float16(got[name]).astype(np.float32) if name in rounded else got[name])
    return measured


def _start(source: Path, model: ir.Model, plan: Plan | None, names: Sequence[str]) -> Callable[[Inputs], Outputs]:
    """Return a function that runs a network, or the emulation of a plan, and gives the values of these names."""
    if not names:  # ONNX Runtime runs nothing that gives no output
        return lambda _: {}
    copy = model.clone()
    copy.meta.update(model.meta)
    copy.meta[IR_VERSION_IN_FILE] = copy.ir_version
    by_name = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs[:] = [by_name[name] for name in names]
    if plan is not None:
        _round_values(copy.graph, plan.for_copy(copy.graph))
    with temporary_folder() as folder:
        path = folder / "model.onnx"
        save_model(copy, path)
        try:
            session = start_onnxruntime(path, copy)
        except SetupError:
            raise
        except Exception as error:  # noqa: BLE001 -- it raises many kinds
            raise ModelFileError(source, f"cannot be run by ONNX Runtime: {in_one_line(error)}") from None

    def run(inputs: Inputs) -> Outputs:
        try:
            return dict(zip(names, session(list(names), dict(inputs)), strict=True))
        except Exception as error:  # noqa: BLE001 -- as above
            raise ModelFileError(source, f"failed to run: {in_one_line(error)}") from None

    return run


def _round_values(graph: ir.Graph, plan: Plan) -> None:
    """Round each value wherever a plan makes or reads it as float16, in place."""
    editor, first = Editor(graph), next(iter(graph), None)
    for value in list(plan.values()):
        uses = plan.float16_uses(value)
        if plan.is_made_in_float16(value):
            uses += plan.float32_uses(value)
        if not uses:
            continue
        if value.is_initializer() and not value.is_graph_input():
            assert value.const_value is not None  # an initializer of a loaded model
            result = editor.add_initializer(_rounded_tensor(value.const_value), f"{value.name}.rounded")
        else:
            result = _add_rounding(editor, value, first)
        for use in uses:
            use.node.replace_input_with(use.place, result)


def _rounded_tensor(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    def rounded() -> ir.Tensor[np.ndarray]:
        return ir.Tensor(round_to_float16(tensor.numpy()).astype(np.float32), dtype=_FLOAT)

    return ir.LazyTensor(rounded, _FLOAT, ir.Shape(tensor.shape.numpy()), name=tensor.name)


def _add_rounding(editor: Editor, value: ir.Value, first: ir.Node | None) -> ir.Value:
    """Add a Cast to float16 and one back behind the node that makes a value; return the result."""
    nodes: list[ir.Node] = []
    for dtype, name in ((_FLOAT16, "float16"), (_FLOAT, "rounded")):
        result = ir.Value(name=editor.unused_name(f"{value.name}.{name}"), shape=value.shape, type=ir.TensorType(dtype))
        source = nodes[-1].outputs[0] if nodes else value
        nodes.append(ir.Node("", "Cast", [source], [ir.AttrInt64("to", dtype)], outputs=[result]))
    producer = value.producer()
    if producer is not None:
        editor.graph.insert_after(producer, nodes)
    else:
        assert first is not None  # a node that reads the value
        editor.graph.insert_before(first, nodes)
    return nodes[-1].outputs[0]

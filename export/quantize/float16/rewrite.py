"""Rewrite a float32 graph by a plan: dtypes, constants, and a Cast wherever float32 and float16 meet."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from normfold.export.graph.editor import Editor
from normfold.export.graph.nodes import unused_node_name
from normfold.export.quantize.float16.plan import Plan, Use

_FLOAT, _FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16


def rewrite(model: ir.Model, plan: Plan, keep_io: bool) -> int:
    """Convert a model, in place.

    Args:
        model: float32, whose values have their types.
        plan: of its graph.
        keep_io: inputs and outputs stay float32.

    Returns:
        How many Cast nodes were added; Casts of the model itself that convert nothing any more are removed.
    """
    casts = _Casts(model.graph)
    for value in list(plan.values()):
        read_as_float16, read_as_float32 = plan.float16_uses(value), plan.float32_uses(value)
        is_input = value.is_graph_input() and not keep_io
        if value.is_initializer() and not value.is_graph_input():
            _convert_constant(casts.editor, value, read_as_float16, bool(read_as_float32))
        elif is_input or plan.is_made_in_float16(value):
            _set_dtype(value, _FLOAT16)
            output = value.is_graph_output() and keep_io
            if read_as_float32 or output:
                casts.add(value, _FLOAT, read_as_float32, output)
        elif read_as_float16 or (value.is_graph_output() and not keep_io):
            casts.add(value, _FLOAT16, read_as_float16, value.is_graph_output() and not keep_io)
    for node in plan.slots:
        _set_attributes(node, plan)
    _remove_casts_to_same_dtype(casts.editor)
    return casts.count


class _Casts:
    """Adds Cast nodes to a graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self.editor, self.count = Editor(graph), 0
        self._first = next(iter(graph), None)
        self._node_names = {node.name or "" for node in graph}

    def add(self, value: ir.Value, dtype: ir.DataType, uses: list[Use], is_output: bool) -> None:
        """Add a Cast of a value for these uses; as an output of the graph the result takes the value's name."""
        graph, name = self.editor.graph, value.name or ""
        suffix = "float16" if (dtype == _FLOAT16) is not is_output else "float32"
        other = self.editor.unused_name(f"{name}.{suffix}")
        if is_output:
            value.name = other
        result = ir.Value(name=name if is_output else other, shape=value.shape, type=ir.TensorType(dtype))
        cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", dtype)], outputs=[result])
        cast.name = unused_node_name(f"{result.name}.cast", self._node_names)
        for use in uses:
            use.node.replace_input_with(use.place, result)
        if is_output:
            outputs = [result if each is value else each for each in graph.outputs]
            graph.outputs[:] = outputs
        self._insert(cast, value.producer())
        self.count += 1

    def _insert(self, cast: ir.Node, producer: ir.Node | None) -> None:
        if producer is not None:
            self.editor.graph.insert_after(producer, cast)
        elif self._first is not None:
            self.editor.graph.insert_before(self._first, cast)
        else:
            self.editor.graph.append(cast)


def float16_tensor(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a float32 constant in float16, rounded whenever its content is asked for."""

    def rounded() -> ir.Tensor[np.ndarray]:
        return ir.Tensor(round_to_float16(tensor.numpy()), dtype=_FLOAT16)

    return ir.LazyTensor(rounded, _FLOAT16, ir.Shape(tensor.shape.numpy()), name=tensor.name)


def round_to_float16(array: np.ndarray) -> np.ndarray:
    """Return an array in float16; what is larger than 65504 becomes infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(array).astype(np.float16)


def _convert_constant(editor: Editor, value: ir.Value, uses: list[Use], also_float32: bool) -> None:
    """Convert a constant that float16 nodes read, or give them a copy of it if others read it too."""
    tensor = value.const_value
    if not uses or tensor is None:
        return
    if not also_float32 and not value.is_graph_output():
        value.const_value = float16_tensor(tensor)
        _set_dtype(value, _FLOAT16)
        return
    copy = editor.add_initializer(float16_tensor(tensor), f"{value.name}.float16")
    for use in uses:
        use.node.replace_input_with(use.place, copy)


def _set_dtype(value: ir.Value, dtype: ir.DataType) -> None:
    value.type = ir.TensorType(dtype)
    if value.const_value is not None and value.is_initializer():  # the default of an input
        value.const_value = value.const_value if value.const_value.dtype == dtype else float16_tensor(value.const_value)


def _set_attributes(node: ir.Node, plan: Plan) -> None:
    """Let the attributes that state the dtype of a node's output state float16."""
    if 0 not in plan.slots_of(node).outputs:
        return
    if node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", _FLOAT16)
    elif node.op_type == "ConstantOfShape":
        given = node.attributes.get("value")
        _set_value(node, np.zeros(1, np.float32) if given is None else given.as_tensor().numpy())
    elif node.op_type == "Constant":  # an output of the graph: others are among the initializers
        (given,) = node.attributes.values()
        node.attributes.clear()
        is_tensor = given.type == ir.AttributeType.TENSOR
        _set_value(node, given.as_tensor().numpy() if is_tensor else np.asarray(given.value, np.float32))


def _set_value(node: ir.Node, array: np.ndarray) -> None:
    node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(round_to_float16(array), dtype=_FLOAT16))


def _remove_casts_to_same_dtype(editor: Editor) -> None:
    for node in list(editor.graph):
        source = node.inputs[0] if node.op_type == "Cast" and node.domain == "" else None
        if source is None or source.dtype != node.outputs[0].dtype or node.outputs[0].is_graph_output():
            continue
        if source.dtype in (_FLOAT, _FLOAT16):
            editor.bypass(node, source)

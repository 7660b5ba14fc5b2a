"""Put a BatchNormalization behind a value, and take it away again; what was read of the value is read of its output."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.batchnorm_parameters import PARAMETERS
from normfold.export.graph.constants import DerivedConstant, derived_tensor
from normfold.export.graph.editor import Editor
from normfold.export.unfold.parameters import Parameters


def insert_batchnorm(
    editor: Editor, value: ir.Value, label: str, parameters: Parameters, dtype: ir.DataType
) -> ir.Node:
    """Put a BatchNormalization behind a value, whose name and readers, the caller among them, its output gets.

    Args:
        editor: of the value's graph.
        value: the output of a node.
        label: name of the node, and of its parameters with their roles behind it.
        parameters: of the node.
        dtype: of the parameters.
    """
    producer = value.producer()
    assert producer is not None  # a layer's output
    constants = [
        editor.add_initializer(derived_tensor(_constant(f"{label}.{role}", array, dtype)), f"{label}.{role}")
        for role, array in zip(PARAMETERS, parameters.arrays, strict=True)
    ]
    epsilon = ir.AttrFloat32("epsilon", parameters.epsilon)
    node = ir.Node("", "BatchNormalization", [value, *constants], [epsilon], name=label)
    result = node.outputs[0]
    result.name, result.shape, result.type = value.name, value.shape, value.type
    value.replace_all_uses_with(result, replace_graph_outputs=True)
    node.replace_input_with(0, value)
    value.name = editor.unused_name(f"{result.name}.before_batchnorm")
    editor.graph.insert_after(producer, node)
    return node


def set_parameters(editor: Editor, node: ir.Node, parameters: Parameters, dtype: ir.DataType) -> None:
    """Give a BatchNormalization that was put into the graph other parameters."""
    for index, (role, array) in enumerate(zip(PARAMETERS, parameters.arrays, strict=True), start=1):
        editor.put_constant(node, index, _constant(f"{node.name}.{role}", array, dtype))
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", parameters.epsilon)


def remove_batchnorm(editor: Editor, node: ir.Node) -> None:
    """Take a BatchNormalization away that was put behind a value, which gets its name and readers back."""
    value, name, constants = node.inputs[0], node.outputs[0].name, list(node.inputs[1:])
    assert value is not None  # its input is not optional
    editor.bypass(node, value)
    value.name = name
    _forget(editor, constants)


def drop_bias(editor: Editor, node: ir.Node) -> None:
    """Take a layer's bias, its third input, away."""
    bias = node.inputs[2]
    node.replace_input_with(2, None)
    node.resize_inputs(2)
    _forget(editor, [bias])


def _constant(name: str, array: Array, dtype: ir.DataType) -> DerivedConstant:
    return DerivedConstant(name, array.shape, dtype, partial(np.copy, array))


def _forget(editor: Editor, values: Sequence[ir.Value | None]) -> None:
    """Remove initializers that nothing reads any more."""
    for value in values:
        if value is None or not value.is_initializer() or value.uses():
            continue
        if not value.is_graph_output() and not value.is_graph_input():
            assert value.name is not None  # initializers have names
            editor.graph.initializers.pop(value.name)

"""Cut a network at values of which statistics are known: they become inputs, and what computed them goes."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from normfold.export.graph.editor import Editor
from normfold.export.quantize.int8.ranges.run_values import float_values


def cut(model: ir.Model, carriers: Collection[str], wanted: Collection[str]) -> list[ir.Value]:
    """Make inputs of some values, and outputs of others, in place.

    Args:
        model: its inputs stay, as far as they are read.
        carriers: names of the values that become inputs, under their names; those of no readers do not.
        wanted: names of the values that become outputs; carriers among them do not.

    Returns:
        The outputs, in the order of the graph; the model has none besides them.
    """
    graph = model.graph
    editor = Editor(graph)
    graph.outputs.clear()
    for value in [value for value in float_values(graph) if value.name in carriers]:
        name = value.name
        value.name = editor.unused_name(f"{name}.computed")
        new = ir.Value(name=name, type=value.type, shape=ir.Shape([None] * len(value.shape or ())))
        value.replace_all_uses_with(new, replace_graph_outputs=False)
        graph.inputs.append(new)
    outputs = [value for value in float_values(graph) if value.name in wanted]
    graph.outputs.extend(outputs)
    common_passes.RemoveUnusedNodesPass()(model)
    for value in [value for value in graph.inputs if not value.uses() and not value.is_initializer()]:
        graph.inputs.remove(value)
    return outputs

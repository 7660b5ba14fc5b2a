"""Outputs of a quantised network in float32: the last rounding behind a Gemm or MatMul goes."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from normfold.export.graph.editor import Editor
from normfold.export.graph.nodes import sole_reader

_FLOAT_OUTPUT = frozenset({"Gemm", "MatMul"})
"""Operators whose int8 kernel may give float32."""


def give_float_outputs(graph: ir.Graph, tail: Collection[str], clipped: Collection[str]) -> None:
    """Remove the last rounding behind a Gemm or MatMul whose output is the network's, in place.

    Args:
        graph: with QuantizeLinear and DequantizeLinear nodes.
        tail: names of nodes that stay in float32.
        clipped: names of nodes whose rounding clips, too: it stays.
    """
    editor = Editor(graph)
    for last in list(graph):
        first = _rounding(last)
        layer = None if first is None or first.inputs[0] is None else first.inputs[0].producer()
        if first is None or layer is None or layer.op_type not in _FLOAT_OUTPUT or layer.name in clipped:
            continue
        made, given = layer.outputs[0], last.outputs[0]
        behind = [use.node for use in given.uses()]
        is_last = all(node.graph is graph and node.name in tail for node in behind)
        if sole_reader(made) is first and is_last and (behind or given.is_graph_output()):
            _remove(editor, first, last, made)


def clipped_by_rounding(before: ir.Graph, after: ir.Graph) -> set[str]:
    """Return the names of the nodes behind which a Relu or Clip is gone: rounding to the range from 0 on does the same.

    Args:
        before: nodes were placed.
        after: likewise.
    """
    left = {node.name for node in after}
    return {
        node.name or ""
        for node in before
        if any(use.node.graph is before and use.node.name not in left for value in node.outputs for use in value.uses())
    }


def _rounding(last: ir.Node) -> ir.Node | None:
    """Return the QuantizeLinear whose output a DequantizeLinear alone reads; None for other nodes."""
    if last.op_type != "DequantizeLinear" or last.inputs[0] is None:
        return None
    first = last.inputs[0].producer()
    is_alone = first is not None and first.op_type == "QuantizeLinear" and sole_reader(last.inputs[0]) is last
    return first if is_alone else None


def _remove(editor: Editor, first: ir.Node, last: ir.Node, made: ir.Value) -> None:
    """Remove a rounding; what it gave is then the layer's output, under the name that it has."""
    given = last.outputs[0]
    constants = [*first.inputs[1:], *last.inputs[1:]]
    name = given.name
    made.type, made.shape = given.type or made.type, given.shape or made.shape
    given.replace_all_uses_with(made, replace_graph_outputs=True)
    editor.graph.remove([last, first], safe=True)
    given.name, made.name = None, name
    for value in constants:
        editor.remove_unread(value)

"""Bodies of control flow: the graphs inside If, Loop and Scan, which read values of the graphs around them."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from normfold.export.graph.nodes import all_graphs, all_nodes


def name_bodies(model: ir.Model) -> bool:
    """Give each value inside a body a name of its own, and each body the model's opsets, in place.

    Two bodies may use one name for different values, as long as neither is inside the other. Their names mean nothing
    to a caller: inputs and outputs of a body are matched by position.

    Returns:
        Whether any value was renamed.
    """
    main = model.graph
    taken = {value.name for value in _values(main)}
    renamed = False
    for body in all_graphs(main)[1:]:
        body.opset_imports.update(main.opset_imports)
        for value in _values(body):
            if not value.name:
                continue
            if value.name in taken:
                value.name = _unused_name(value.name, taken)
                renamed = True
            taken.add(value.name)
    return renamed


def remove_unused_nodes(model: ir.Model) -> bool:
    """Remove nodes whose outputs are read nowhere, in place, and constants that nothing reads.

    A node that is removed leaves its bodies behind: what only they read is removed too.

    Returns:
        Whether there were any.
    """
    removed = False
    while True:
        removed |= bool(common_passes.RemoveUnusedNodesPass()(model).modified)
        if not _forget_removed_readers(model):
            return _remove_unread_constants(model) or removed


def _forget_removed_readers(model: ir.Model) -> bool:
    """Disconnect values from nodes that are no longer in the model; return whether there were any."""
    there = set(all_nodes(model.graph))
    gone = [
        use
        for graph in all_graphs(model.graph)
        for value in _values(graph)
        for use in value.uses()
        if use.node not in there
    ]
    for node, index in gone:
        node.replace_input_with(index, None)
    return bool(gone)


def _remove_unread_constants(model: ir.Model) -> bool:
    """Remove initializers of bodies that nothing reads, in place; return whether there were any."""
    removed = False
    for body in all_graphs(model.graph)[1:]:
        for name, value in list(body.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del body.initializers[name]
                removed = True
    return removed


def _values(graph: ir.Graph) -> list[ir.Value]:
    """Return the values that a graph itself makes, each once."""
    made = [value for node in graph for value in node.outputs]
    return list(dict.fromkeys([*graph.inputs, *graph.initializers.values(), *made]))


def _unused_name(base: str, taken: set[str | None]) -> str:
    number = 1
    while (name := f"{base}.{number}") in taken:
        number += 1
    return name

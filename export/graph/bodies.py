"""Bodies of control flow: the graphs inside If, Loop and Scan, which read values of the graphs around them."""

from __future__ import annotations

import onnx_ir as ir


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
    for body in main.subgraphs():
        body.opset_imports.update(main.opset_imports)
        for value in _values(body):
            if not value.name:
                continue
            if value.name in taken:
                value.name = _unused_name(value.name, taken)
                renamed = True
            taken.add(value.name)
    return renamed


def remove_unread_constants(model: ir.Model) -> bool:
    """Remove initializers of bodies that nothing reads, in place; return whether there were any."""
    removed = False
    for body in model.graph.subgraphs():
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

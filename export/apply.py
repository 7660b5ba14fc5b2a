"""Carries a plan out on the graph: constants replaced, changed values renamed, the BatchNormalization removed."""

from __future__ import annotations

import onnx_ir as ir

from export.constants import Derived, derived_tensor
from export.plan import Plan, Rewrite


class Applier:
    """Applies plans to one graph, in place.

    Constants are never overwritten: a rewritten node gets its own copy, so a weight that two nodes share stays right
    for the other. A value whose content a plan changes gets another name, so equal names in the source and the
    result mean equal content.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._names = {value.name for node in graph.all_nodes() for value in node.outputs}
        self._names |= {value.name for value in graph.inputs} | set(graph.initializers)

    def fold_back(self, node: ir.Node, plan: Plan) -> ir.Value:
        """Remove a node whose input now carries its output.

        Returns:
            The value that carries it, under the output's name.
        """
        source, result = node.inputs[0], node.outputs[0]
        assert source is not None  # the plan pulled it
        self._rewrite(plan)
        for value in plan.wanted:
            if value is not source:
                value.name = self._unused(f"{value.name}.folded")
        self._replace(node, result, source)
        source.name = result.name
        return source

    def fold_forward(self, node: ir.Node, plan: Plan) -> None:
        """Remove a node whose readers do without it."""
        source, result = node.inputs[0], node.outputs[0]
        assert source is not None  # BatchNormalization's input is not optional
        self._rewrite(plan)
        for value in plan.missing:
            if value is not result:
                value.name = self._unused(f"{value.name}.folded")
        self._replace(node, result, source)

    def _replace(self, node: ir.Node, result: ir.Value, source: ir.Value) -> None:
        if result.is_graph_output() or source.shape is None:
            source.shape = result.shape  # an output keeps its declared shape, with the names of its axes
        result.replace_all_uses_with(source, replace_graph_outputs=True)
        self._graph.remove(node, safe=True)

    def _rewrite(self, plan: Plan) -> None:
        for rewrite in plan.rewrites:
            self._rewrite_node(rewrite)

    def _rewrite_node(self, rewrite: Rewrite) -> None:
        node = rewrite.node
        if rewrite.op_type is not None:
            node.op_type = rewrite.op_type
        for name, number in rewrite.attributes.items():
            node.attributes[name] = ir.AttrFloat32(name, number)
        for index, derived in rewrite.constants.items():
            if index >= len(node.inputs):
                node.resize_inputs(index + 1)
            self._put(node, index, derived)

    def _put(self, node: ir.Node, index: int, derived: Derived) -> None:
        """Give a node a constant of its own, under the old one's name if nobody else reads that."""
        old = node.inputs[index]
        node.replace_input_with(index, None)
        if old is not None and old.is_initializer() and not old.uses() and not old.is_graph_output():
            assert old.name is not None  # initializers have names
            del self._graph.initializers[old.name]
            self._names.discard(old.name)
        tensor = derived_tensor(derived)
        value = ir.Value(
            name=self._unused(derived.name),
            shape=ir.Shape(derived.shape),
            type=ir.TensorType(derived.dtype),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        node.replace_input_with(index, value)

    def _unused(self, wish: str) -> str:
        name, number = wish, 1
        while name in self._names:
            name, number = f"{wish}.{number}", number + 1
        self._names.add(name)
        return name

"""An editor of a graph: adds constants and names without touching what others read."""

from __future__ import annotations

from copy import copy

import onnx_ir as ir

from normfold.export.graph.constants import DerivedConstant, derived_tensor
from normfold.export.graph.nodes import all_graphs, all_nodes


class Editor:
    """Edits one graph, in place.

    Constants are never overwritten: a node gets its own copy, so a weight that two nodes share stays right for the
    other. A node in a body gets it as an initializer of the body: ONNX Runtime chooses the layout of a Conv's weights
    only there.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._names = {value.name for node in all_nodes(graph) for value in node.outputs}
        for each in all_graphs(graph):
            self._names |= {value.name for value in each.inputs} | set(each.initializers)

    def for_bodies(self) -> list[Editor]:
        """Return an editor for each body inside the graph; all of them and this one give out different names."""
        editors = []
        for body in all_graphs(self.graph)[1:]:
            editor = copy(self)
            editor.graph = body
            editors.append(editor)
        return editors

    def put_constant(self, node: ir.Node, index: int, derived: DerivedConstant) -> None:
        """Give a node a constant of its own, under the old one's name if that has no other reader."""
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        old = node.inputs[index]
        node.replace_input_with(index, None)
        self.remove_unread(old)
        node.replace_input_with(index, self.add_initializer(derived_tensor(derived), derived.name))

    def remove_unread(self, value: ir.Value | None) -> None:
        """Remove a constant that nothing reads any more."""
        if value is not None and value.is_initializer() and not value.uses() and not value.is_graph_output():
            assert value.name is not None  # an initializer has a name and a graph
            assert value.graph is not None
            del value.graph.initializers[value.name]
            self._names.discard(value.name)

    def add_initializer(self, tensor: ir.TensorProtocol, name: str) -> ir.Value:
        """Add an initializer under the given name, or one like it."""
        value = ir.Value(
            name=self.unused_name(name),
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.graph.register_initializer(value)
        return value

    def rename_changed(self, value: ir.Value) -> None:
        """Give another name to a value whose content is no longer what it was."""
        value.name = self.unused_name(f"{value.name}.folded")

    def bypass(self, node: ir.Node, source: ir.Value) -> None:
        """Remove a node, its readers (and the caller) reading one of its inputs instead of its output."""
        self.replace(node.outputs[0], source)
        self.graph.remove(node, safe=True)

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Make the readers of one value (and the caller) read another instead."""
        if old.is_graph_output() or new.shape is None:
            new.shape = old.shape  # an output keeps its declared shape, with the names of its axes
        if new.type is None:
            new.type = old.type
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def unused_name(self, base: str) -> str:
        """Return the name, with a number appended if it is taken."""
        name, number = base, 1
        while name in self._names:
            name, number = f"{base}.{number}", number + 1
        self._names.add(name)
        return name

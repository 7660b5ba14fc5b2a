"""The plan of a conversion: which nodes compute in float16, and which stay in float32 and why."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from copy import copy
from typing import NamedTuple

import onnx_ir as ir

from normfold.export.graph.nodes import node_label
from normfold.export.quantize.float16.float32_nodes import LAYERS, static_reason, tiny_operand, values_from_integers
from normfold.export.quantize.float16.result import Float32Node
from normfold.export.quantize.float16.schema import NO_SLOTS, Slots, float16_slots, is_float32, schema_of

_MOVING = frozenset({"Identity", "Reshape", "Flatten", "Expand", "Unsqueeze", "Squeeze", "Transpose", "Tile"})


class Use(NamedTuple):
    """Where a node reads a value."""

    node: ir.Node
    place: int


class Plan:
    """Which nodes of a graph compute in float16.

    Nodes inside bodies of control flow are none of them.

    Attributes:
        slots: of each node that does, the inputs and outputs that become float16.
        reasons: of each node that does not, although it takes or gives float32.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.slots: dict[ir.Node, Slots] = {}
        self.reasons: dict[ir.Node, str] = {}
        from_integers = values_from_integers(graph)
        for node in graph:
            if not any(is_float32(value) for value in (*node.inputs, *node.outputs)):
                continue
            reason = static_reason(node, from_integers)
            schema = schema_of(node)
            if reason is not None or schema is None:
                self.reasons[node] = reason or ""
            else:
                self.slots[node] = float16_slots(node, schema)
        for node in list(self.slots):
            operand = tiny_operand(node)
            if operand is not None:
                self._keep_tiny(node, f"float16 rounds its operand {operand.name!r} to zero")

    def keep(self, node: ir.Node, reason: str) -> None:
        """Let a node compute in float32; the first reason counts."""
        if self.slots.pop(node, None) is not None:
            self.reasons[node] = reason

    def for_copy(self, graph: ir.Graph) -> Plan:
        """Return the same plan for a copy of the graph, as it was copied."""
        nodes = dict(zip(self.graph, graph, strict=True))
        plan = copy(self)
        plan.graph = graph
        plan.slots = {nodes[node]: slots for node, slots in self.slots.items()}
        plan.reasons = {nodes[node]: reason for node, reason in self.reasons.items()}
        return plan

    def slots_of(self, node: ir.Node | None) -> Slots:
        """Return the inputs and outputs of a node that become float16."""
        return NO_SLOTS if node is None else self.slots.get(node, NO_SLOTS)

    def is_made_in_float16(self, value: ir.Value) -> bool:
        """Return whether the node that makes a value gives it as float16."""
        return value.index() in self.slots_of(value.producer()).outputs if value.producer() is not None else False

    def float16_uses(self, value: ir.Value) -> list[Use]:
        """Return where nodes read a value as float16."""
        return [Use(*use) for use in value.uses() if use.idx in self.slots_of(use.node).inputs]

    def float32_uses(self, value: ir.Value) -> list[Use]:
        """Return where nodes read a value as float32, those inside bodies too."""
        return [Use(*use) for use in value.uses() if use.idx not in self.slots_of(use.node).inputs]

    def is_rounded(self, value: ir.Value) -> bool:
        """Return whether a value is float16 anywhere."""
        return self.is_made_in_float16(value) or bool(self.float16_uses(value))

    def values(self) -> Iterator[ir.Value]:
        """Yield the float32 values of the graph itself: inputs, constants, and outputs of nodes in graph order."""
        made = (value for node in self.graph for value in node.outputs)
        everything = dict.fromkeys((*self.graph.inputs, *self.graph.initializers.values(), *made))
        yield from (value for value in everything if is_float32(value))

    def float32_nodes(self) -> tuple[Float32Node, ...]:
        """Return the nodes that stay in float32, in graph order."""
        return tuple(
            Float32Node(node_label(node), node.op_type, self.reasons[node])
            for node in self.graph
            if node in self.reasons
        )

    def _keep_tiny(self, node: ir.Node, reason: str) -> None:
        """Keep a node, and what reads its result before a layer does: a tiny number divides, or has its root taken."""
        self.keep(node, reason)
        label, queue = node_label(node), deque(node.outputs)
        while queue:
            for use in queue.popleft().uses():
                if use.node in self.slots and use.node.op_type not in LAYERS:
                    self.keep(use.node, f"it reads what {label!r} makes, whose numbers may be too small for float16")
                    if use.node.op_type in _MOVING:
                        queue.extend(use.node.outputs)

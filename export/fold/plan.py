"""The planner: it finds the weights that can absorb one affine, and the nodes between that pass it on.

It walks the graph in two directions. At each node the operator family returns a step, or a rejection:

    backward   an affine is required on the node's output: the family absorbs it, or requires affines on the inputs
    forward    an affine was removed from the node's input: the family compensates for it, or removes affines from the
               outputs

The algorithm:

    1. Enqueue the producer of the affine's input with the required affine, or its readers with the removed one.
    2. Visit backward nodes first, in reverse topological order, then forward nodes in topological order; so all affines
       of a node are known when it is visited, and each node is visited once.
    3. Enqueue the producers of the inputs and the readers of the outputs that the node's step names.
    4. Reject on a conflict: two affines on one value, or a node that is reached in both directions.
    5. Reject if a value that changes is read outside the plan: by another node, a subgraph, or the caller. A Shape or
       Size reads no values, and no plan changes a shape that is read twice.

A plan adds no node. Once it is applied, every value outside it is what it was before. Making a plan changes nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.cost import Cost, bytes_moved, is_no_slower
from normfold.export.fold.edits import Edit
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.constants import is_overridable, not_constant_because
from normfold.export.graph.nodes import node_label, reads_shape_alone


@dataclass(frozen=True, eq=False)
class Step:
    """The contribution of one node to a plan.

    `backward` holds the affines that it requires on its inputs, by input index, and `forward` those that it removes
    from its outputs, by output index. `edit` is how the node itself changes. `if_blocked` is the rejection to report if
    the plan fails after this step: the step is a last resort, and its own failure would say less.
    """

    backward: Mapping[int, Affine] = field(default_factory=dict)
    forward: Mapping[int, Affine] = field(default_factory=dict)
    edit: Edit | None = None
    if_blocked: Rejection | None = None


class OperatorFamily(Protocol):
    """Operators that pass or absorb an affine alike: a module with these two functions."""

    def fold_backward(self, node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
        """Absorb or pass on affines that are required on the node's outputs. Changes nothing.

        Args:
            node: of one of the family's operators, in the standard domain.
            required: by output index, at least one; gain and offset in float64, broadcasting against that output.

        Returns:
            The step that gives the affines, or a rejection.
        """

    def fold_forward(self, node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
        """Absorb or pass on affines that were removed from the node's inputs. Changes nothing.

        Args:
            node: of one of the family's operators, in the standard domain.
            removed: by input index, at least one; gain and offset in float64, broadcasting against that input.

        Returns:
            The step that compensates for them, or a rejection.
        """


@dataclass(eq=False)
class Plan:
    """A consistent set of steps.

    `required` maps each value to the affine that the plan applies to it, `removed` each value to the affine that the
    plan takes from it. `edits` are those of the nodes that absorb, `path` lists the visited nodes in order.
    """

    required: dict[ir.Value, Affine] = field(default_factory=dict)
    removed: dict[ir.Value, Affine] = field(default_factory=dict)
    edits: list[Edit] = field(default_factory=list)
    path: list[ir.Node] = field(default_factory=list)

    def overflow(self) -> Rejection | None:
        """Return a rejection if a constant of the plan does not fit float16."""
        for edit in self.edits:
            for derived in edit.new_constants:
                if not derived.fits:
                    return Rejection(ReasonCode.OVERFLOW, edit.node, f"{derived.name!r} would not fit float16")
        return None

    def is_no_slower(self, node: ir.Node) -> bool:
        """Return whether the network is no slower without a node, and with the constants as the plan changes them."""
        return is_no_slower(Cost(1, 0, bytes_moved(node)), Cost(0, 0, sum(edit.added_bytes for edit in self.edits)))


class Planner:
    """Makes plans over one graph.

    Args:
        operators: operator type to family; an operator that is not listed rejects every affine.
        position: every node's place in the graph's topological order.
    """

    def __init__(self, operators: Mapping[str, OperatorFamily], position: Mapping[ir.Node, int]) -> None:
        self._operators = operators
        self._position = position

    def plan_backward(self, node: ir.Node, affine: Affine, index: int = 0) -> Plan | Rejection:
        """Plan for input number `index` of `node` to carry the affine, so that `node` can be removed."""
        search = _Search(self._operators, self._position, start=node)
        return search.run_backward(index, affine)

    def plan_forward(self, node: ir.Node, affine: Affine) -> Plan | Rejection:
        """Plan for the readers of `node` to compensate for the affine, so that `node` can be removed."""
        search = _Search(self._operators, self._position, start=node)
        return search.run_forward(affine)


class _Search:
    """The search for one plan. See the module's docstring for the algorithm."""

    def __init__(
        self, operators: Mapping[str, OperatorFamily], position: Mapping[ir.Node, int], start: ir.Node
    ) -> None:
        self._operators = operators
        self._position = position
        self._start = start
        self._plan = Plan()
        self._backward_edges: set[tuple[ir.Node, int]] = set()
        self._is_backward: dict[ir.Node, bool] = {}  # direction in which a node was enqueued
        self._visited: set[ir.Node] = set()
        self._queue: list[tuple[bool, int, int, ir.Node]] = []
        self._sequence = count()  # breaks ties, as nodes have no order
        self._blocked: Rejection | None = None

    def run_backward(self, index: int, affine: Affine) -> Plan | Rejection:
        return self._run(self._require(self._start, index, self._start.inputs[index], affine))

    def run_forward(self, affine: Affine) -> Plan | Rejection:
        return self._run(self._remove(self._start, self._start.outputs[0], affine))

    def _run(self, rejection: Rejection | None) -> Plan | Rejection:
        while rejection is None and self._queue:
            node = heapq.heappop(self._queue)[-1]
            if node not in self._visited:
                rejection = self._visit(node)
        rejection = rejection or self._find_other_reader()
        return self._plan if rejection is None else self._blocked or rejection

    def _require(self, reader: ir.Node, index: int, value: ir.Value | None, affine: Affine) -> Rejection | None:
        """Require an affine on input number `index` of `reader`."""
        if value is None or (producer := value.producer()) is None:
            detail = "it reads an input of the graph or an initializer, not a node"
            if value is not None and is_overridable(value):
                detail = f"its operand {value.name!r} {not_constant_because(value)}"
            return Rejection(ReasonCode.GRAPH_INPUT, reader, detail)
        if producer.graph is not self._start.graph:
            return Rejection(ReasonCode.SUBGRAPH, reader, "it reads a value of an outer graph")
        if value.is_graph_output():
            return Rejection(
                ReasonCode.GRAPH_OUTPUT, reader, f"the value {value.name!r} before it is also an output of the graph"
            )
        known = self._plan.required.setdefault(value, affine)
        if not known.equals(affine) or value in self._plan.removed:
            return _conflict(producer, value)
        self._backward_edges.add((reader, index))
        return self._enqueue(producer, value, is_backward=True)

    def _remove(self, producer: ir.Node, value: ir.Value, affine: Affine) -> Rejection | None:
        """Remove an affine from a value, for its readers to compensate."""
        if value.is_graph_output():
            return Rejection(ReasonCode.GRAPH_OUTPUT, producer, f"its value {value.name!r} is an output of the graph")
        if value in self._plan.required:
            return _conflict(producer, value)
        self._plan.removed[value] = affine
        for reader, _ in value.uses():
            if reads_shape_alone(reader):
                continue
            if reader.graph is not self._start.graph:
                return Rejection(ReasonCode.SUBGRAPH, producer, f"its value {value.name!r} is also read in a subgraph")
            if (rejection := self._enqueue(reader, value, is_backward=False)) is not None:
                return rejection
        return None

    def _enqueue(self, node: ir.Node, value: ir.Value, is_backward: bool) -> Rejection | None:
        """Queue a node: backward ones come first, from the graph's last node, then forward ones, from the first."""
        if node in self._visited or self._is_backward.setdefault(node, is_backward) is not is_backward:
            return _conflict(node, value)
        place = self._position[node]
        heapq.heappush(self._queue, (not is_backward, -place if is_backward else place, next(self._sequence), node))
        return None

    def _visit(self, node: ir.Node) -> Rejection | None:
        is_backward = self._is_backward[node]
        family = self._operators.get(node.op_type) if node.domain == "" else None
        if family is None:
            return Rejection(
                ReasonCode.OPERATOR, node, f"an affine does not pass it {'backwards' if is_backward else 'forwards'}"
            )
        known, values = (self._plan.required, node.outputs) if is_backward else (self._plan.removed, node.inputs)
        affines = {index: known[value] for index, value in enumerate(values) if value is not None and value in known}
        step = family.fold_backward(node, affines) if is_backward else family.fold_forward(node, affines)
        return step if isinstance(step, Rejection) else self._add_step(node, step)

    def _add_step(self, node: ir.Node, step: Step) -> Rejection | None:
        self._plan.path.append(node)
        self._visited.add(node)
        self._blocked = self._blocked or step.if_blocked
        if step.edit is not None:
            self._plan.edits.append(step.edit)
        for index, affine in step.backward.items():
            if (rejection := self._require(node, index, node.inputs[index], affine)) is not None:
                return rejection
        for index, affine in step.forward.items():
            if (rejection := self._remove(node, node.outputs[index], affine)) is not None:
                return rejection
        return None

    def _find_other_reader(self) -> Rejection | None:
        """Return a rejection if a node outside the plan reads a value that will change."""
        for value in self._plan.required:
            for reader, index in value.uses():
                if (reader, index) not in self._backward_edges and not reads_shape_alone(reader):
                    producer = value.producer()
                    assert producer is not None  # `_require` rejects other values
                    because = f"its value {value.name!r} is also read by {reader.op_type} {node_label(reader)!r}"
                    return Rejection(ReasonCode.OTHER_READERS, producer, because)
        return None


def _conflict(node: ir.Node, value: ir.Value) -> Rejection:
    return Rejection(ReasonCode.CONFLICT, node, f"two different affines would be needed on the value {value.name!r}")

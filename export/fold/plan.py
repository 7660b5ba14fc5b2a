"""A plan: how one affine finds its way to the weights that absorb it.

The graph is walked in two directions, and each operator family knows only how it answers them:

    backward   an affine is wanted on the node's output: which affines on its inputs give that, or does it absorb the
               affine, or reject it?
    forward    the node's input arrives without its affine: which affine does its output lack then, or does it absorb
               the affine, or reject it?

A plan is a consistent set of such answers, keyed by value. It requires that every leaf absorbs; that no tensor changes
which is also read elsewhere (another node, a subgraph, the caller); and that no node is added. It ensures that, once
applied, every value outside the plan is what it was before. Making a plan changes nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.cost import Cost, moved_by, pays
from normfold.export.fold.edits import Edit
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.nodes import node_label


@dataclass(frozen=True, eq=False)
class Step:
    """One node's answer.

    `backward` holds the affines that it wants on its inputs, by input index, and `forward` those that its outputs lack
    then, by output index. `edit` is how the node itself changes. `if_blocked` is the rejection to report if the plan
    fails behind this step: the step is a last resort, and its own failure would say less.
    """

    backward: Mapping[int, Affine] = field(default_factory=dict)
    forward: Mapping[int, Affine] = field(default_factory=dict)
    edit: Edit | None = None
    if_blocked: Rejection | None = None


class Operator(Protocol):
    """An operator family: a module with these two functions."""

    def fold_backward(self, node: ir.Node, wanted: Mapping[int, Affine]) -> Step | Rejection:
        """Answer affines that are wanted on the node's outputs. Changes nothing.

        Args:
            node: of one of the family's operators, in the standard domain.
            wanted: by output index, at least one; gain and offset in float64, broadcasting against that output.

        Returns:
            The step that gives the affines, or why there is none.
        """

    def fold_forward(self, node: ir.Node, missing: Mapping[int, Affine]) -> Step | Rejection:
        """Answer affines that the node's inputs arrive without. Changes nothing.

        Args:
            node: of one of the family's operators, in the standard domain.
            missing: by input index, at least one; gain and offset in float64, broadcasting against that input.

        Returns:
            The step that makes up for them, or why there is none.
        """


@dataclass(eq=False)
class Plan:
    """A consistent set of answers.

    `wanted` maps each value that will have its affine applied to that affine; `missing` each value that will lack it.
    `edits` are those of the nodes that absorb, `path` lists all nodes that answered.
    """

    wanted: dict[ir.Value, Affine] = field(default_factory=dict)
    missing: dict[ir.Value, Affine] = field(default_factory=dict)
    edits: list[Edit] = field(default_factory=list)
    path: list[ir.Node] = field(default_factory=list)

    def overflow(self) -> Rejection | None:
        """Return a rejection if a constant of the plan does not fit float16."""
        for edit in self.edits:
            for derived in edit.made:
                if not derived.fits:
                    return Rejection(ReasonCode.OVERFLOW, edit.node, f"{derived.name!r} would not fit float16")
        return None

    def pays(self, node: ir.Node) -> bool:
        """Return whether the network is no slower without a node, and with the constants as the plan changes them."""
        return pays(Cost(1, 0, moved_by(node)), Cost(0, 0, sum(edit.growth for edit in self.edits)))


class Planner:
    """Makes plans over one graph.

    Args:
        operators: operator type to family; a type that is not listed rejects every affine.
        position: every node's place in the graph's topological order.
    """

    def __init__(self, operators: Mapping[str, Operator], position: Mapping[ir.Node, int]) -> None:
        self._operators = operators
        self._position = position

    def plan_backward(self, node: ir.Node, affine: Affine, index: int = 0) -> Plan | Rejection:
        """Plan for input number `index` of `node` to carry the affine, so that `node` can go."""
        search = _Search(self._operators, self._position, start=node)
        return search.run_backward(index, affine)

    def plan_forward(self, node: ir.Node, affine: Affine) -> Plan | Rejection:
        """Plan for the readers of `node` to do without the affine, so that `node` can go."""
        search = _Search(self._operators, self._position, start=node)
        return search.run_forward(affine)


class _Search:
    """The making of one plan: backward questions are answered against the topological order, forward ones along it.

    So a node is asked only when all that is wanted of it, or missing at it, is known; it answers once.
    """

    def __init__(self, operators: Mapping[str, Operator], position: Mapping[ir.Node, int], start: ir.Node) -> None:
        self._operators = operators
        self._position = position
        self._start = start
        self._plan = Plan()
        self._backward_edges: set[tuple[ir.Node, int]] = set()
        self._asked: dict[ir.Node, bool] = {}  # node to whether it is asked backward
        self._answered: set[ir.Node] = set()
        self._queue: list[tuple[bool, int, int, ir.Node]] = []
        self._ticket = count()
        self._reason: Rejection | None = None

    def run_backward(self, index: int, affine: Affine) -> Plan | Rejection:
        return self._run(self._want(self._start, index, self._start.inputs[index], affine))

    def run_forward(self, affine: Affine) -> Plan | Rejection:
        return self._run(self._lack(self._start, self._start.outputs[0], affine))

    def _run(self, rejection: Rejection | None) -> Plan | Rejection:
        while rejection is None and self._queue:
            node = heapq.heappop(self._queue)[-1]
            if node not in self._answered:
                rejection = self._answer(node)
        rejection = rejection or self._other_reader()
        return self._plan if rejection is None else self._reason or rejection

    def _want(self, reader: ir.Node, index: int, value: ir.Value | None, affine: Affine) -> Rejection | None:
        """Note that `reader` wants an affine on its input number `index`."""
        if value is None or (producer := value.producer()) is None:
            return Rejection(
                ReasonCode.GRAPH_INPUT, reader, "it reads an input of the graph or an initializer, not a node"
            )
        if producer.graph is not self._start.graph:
            return Rejection(ReasonCode.SUBGRAPH, reader, "it reads a value of an outer graph")
        if value.is_graph_output():
            return Rejection(
                ReasonCode.GRAPH_OUTPUT, reader, f"the value {value.name!r} before it is also an output of the graph"
            )
        known = self._plan.wanted.setdefault(value, affine)
        if not known.equals(affine) or value in self._plan.missing:
            return _conflict(producer, value)
        self._backward_edges.add((reader, index))
        return self._ask(producer, value, is_backward=True)

    def _lack(self, producer: ir.Node, value: ir.Value, affine: Affine) -> Rejection | None:
        """Note that a value arrives at its readers without an affine."""
        if value.is_graph_output():
            return Rejection(ReasonCode.GRAPH_OUTPUT, producer, f"its value {value.name!r} is an output of the graph")
        if value in self._plan.wanted:
            return _conflict(producer, value)
        self._plan.missing[value] = affine
        for reader, _ in value.uses():
            if reader.graph is not self._start.graph:
                return Rejection(ReasonCode.SUBGRAPH, producer, f"its value {value.name!r} is also read in a subgraph")
            if (rejection := self._ask(reader, value, is_backward=False)) is not None:
                return rejection
        return None

    def _ask(self, node: ir.Node, value: ir.Value, is_backward: bool) -> Rejection | None:
        """Queue a node: backward questions first, from the graph's last node, then forward ones, from the first."""
        if node in self._answered or self._asked.setdefault(node, is_backward) is not is_backward:
            return _conflict(node, value)
        place = self._position[node]
        heapq.heappush(self._queue, (not is_backward, -place if is_backward else place, next(self._ticket), node))
        return None

    def _answer(self, node: ir.Node) -> Rejection | None:
        is_backward = self._asked[node]
        operator = self._operators.get(node.op_type) if node.domain == "" else None
        if operator is None:
            return Rejection(
                ReasonCode.OPERATOR, node, f"an affine does not pass it {'backwards' if is_backward else 'forwards'}"
            )
        known, values = (self._plan.wanted, node.outputs) if is_backward else (self._plan.missing, node.inputs)
        affines = {index: known[value] for index, value in enumerate(values) if value is not None and value in known}
        answer = operator.fold_backward(node, affines) if is_backward else operator.fold_forward(node, affines)
        return answer if isinstance(answer, Rejection) else self._accept(node, answer)

    def _accept(self, node: ir.Node, step: Step) -> Rejection | None:
        self._plan.path.append(node)
        self._answered.add(node)
        self._reason = self._reason or step.if_blocked
        if step.edit is not None:
            self._plan.edits.append(step.edit)
        for index, affine in step.backward.items():
            if (rejection := self._want(node, index, node.inputs[index], affine)) is not None:
                return rejection
        for index, affine in step.forward.items():
            if (rejection := self._lack(node, node.outputs[index], affine)) is not None:
                return rejection
        return None

    def _other_reader(self) -> Rejection | None:
        """Return a rejection if a node outside the plan reads a value that will change."""
        for value in self._plan.wanted:
            for reader, index in value.uses():
                if (reader, index) not in self._backward_edges:
                    producer = value.producer()
                    assert producer is not None  # only such values are wanted
                    because = f"its value {value.name!r} is also read by {reader.op_type} {node_label(reader)!r}"
                    return Rejection(ReasonCode.OTHER_READERS, producer, because)
        return None


def _conflict(node: ir.Node, value: ir.Value) -> Rejection:
    return Rejection(ReasonCode.CONFLICT, node, f"two different affines would be needed on the value {value.name!r}")

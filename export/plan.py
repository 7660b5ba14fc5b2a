"""How one affine finds its way to the weights that absorb it.

The graph is walked by two verbs, and each operator family knows only how it answers them:

    pull   an affine is wanted on my output: which affines on my inputs give that, or do I absorb it, or refuse?
    push   my input arrives without its affine: which affine does my output lack then, or do I absorb it, or refuse?

A plan is a consistent set of such answers, keyed by value. It requires that every leaf absorbs; that no tensor changes
which somebody else reads (another node, a subgraph, the caller); and that no node is added. It ensures that, once
applied, every value outside the plan is what it was before. Making a plan changes nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import onnx_ir as ir

from export.affine import Affine
from export.constants import Derived
from export.refusal import Refusal, node_label


@dataclass(frozen=True, eq=False)
class Rewrite:
    """A node with other constants, and if `op_type` is given, as another operator with these attributes."""

    node: ir.Node
    constants: Mapping[int, Derived]
    op_type: str | None = None
    attributes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Step:
    """One node's answer: what it asks of its inputs, what its outputs lack, how it is rewritten."""

    pulls: Mapping[int, Affine] = field(default_factory=dict)
    pushes: Mapping[int, Affine] = field(default_factory=dict)
    rewrite: Rewrite | None = None


class Operator(Protocol):
    """An operator family: a module with these two functions."""

    def pull(self, node: ir.Node, wanted: Mapping[int, Affine]) -> Step | Refusal:
        """Answer affines wanted on outputs, by output index."""

    def push(self, node: ir.Node, missing: Mapping[int, Affine]) -> Step | Refusal:
        """Answer affines that are missing on inputs, by input index."""


@dataclass(eq=False)
class Plan:
    """A consistent set of answers.

    `wanted` maps each value that will carry its affine to that affine; `missing` each value that will lack it.
    """

    wanted: dict[ir.Value, Affine] = field(default_factory=dict)
    missing: dict[ir.Value, Affine] = field(default_factory=dict)
    rewrites: list[Rewrite] = field(default_factory=list)
    path: list[ir.Node] = field(default_factory=list)


class Planner:
    """Makes plans over one graph.

    Args:
        operators: operator type to family; a type that is not listed refuses.
        position: every node's place in the graph's topological order.
    """

    def __init__(self, operators: Mapping[str, Operator], position: Mapping[ir.Node, int]) -> None:
        self._operators = operators
        self._position = position

    def back(self, node: ir.Node, affine: Affine) -> Plan | Refusal:
        """Plan for the value before `node` to carry the affine, so that `node` can go."""
        search = _Search(self._operators, self._position, start=node)
        return search.run(pull=(node.inputs[0], affine))

    def forward(self, node: ir.Node, affine: Affine) -> Plan | Refusal:
        """Plan for the readers of `node` to do without the affine, so that `node` can go."""
        search = _Search(self._operators, self._position, start=node)
        return search.run(push=(node.outputs[0], affine))


class _Search:
    """The making of one plan: pulls are answered against the topological order, pushes along it."""

    def __init__(self, operators: Mapping[str, Operator], position: Mapping[ir.Node, int], start: ir.Node) -> None:
        self._operators = operators
        self._position = position
        self._start = start
        self._plan = Plan()
        self._pull_edges: set[tuple[ir.Node, int]] = set()
        self._pulls: list[tuple[int, ir.Node]] = []
        self._pushes: list[tuple[int, ir.Node]] = []
        self._queued: set[ir.Node] = set()

    def run(
        self,
        pull: tuple[ir.Value | None, Affine] | None = None,
        push: tuple[ir.Value, Affine] | None = None,
    ) -> Plan | Refusal:
        refusal = None
        if pull is not None:
            refusal = self._pull(self._start, 0, *pull)
        if push is not None:
            refusal = self._push(self._start, *push)
        while refusal is None and (self._pulls or self._pushes):
            if self._pulls:
                refusal = self._answer_pull(heapq.heappop(self._pulls)[1])
            else:
                refusal = self._answer_push(heapq.heappop(self._pushes)[1])
        return refusal or self._other_reader() or self._plan

    def _pull(self, reader: ir.Node, index: int, value: ir.Value | None, affine: Affine) -> Refusal | None:
        """Note that `reader` wants an affine on its input number `index`."""
        if value is None or (producer := value.producer()) is None:
            return Refusal("graph-input", "it reads an input of the graph or an initializer, not a node", reader)
        if producer.graph is not self._start.graph:
            return Refusal("subgraph", "it reads a value of an outer graph", reader)
        if value.is_graph_output():
            return Refusal("graph-output", f"the value {value.name!r} before it is also an output of the graph", reader)
        known = self._plan.wanted.setdefault(value, affine)
        if not known.equals(affine) or value in self._plan.missing:
            return Refusal("conflict", f"two different affines are wanted on the value {value.name!r}", producer)
        self._pull_edges.add((reader, index))
        if producer not in self._queued:
            self._queued.add(producer)
            heapq.heappush(self._pulls, (-self._position[producer], producer))
        return None

    def _push(self, producer: ir.Node, value: ir.Value, affine: Affine) -> Refusal | None:
        """Note that a value arrives at its readers without an affine."""
        if value.is_graph_output():
            return Refusal("graph-output", f"its value {value.name!r} is an output of the graph", producer)
        if value in self._plan.wanted:
            return Refusal("conflict", f"two different affines are wanted on the value {value.name!r}", producer)
        self._plan.missing[value] = affine
        for reader, _ in value.uses():
            if reader.graph is not self._start.graph:
                return Refusal("subgraph", f"its value {value.name!r} is also read in a subgraph", producer)
            if reader not in self._queued:
                self._queued.add(reader)
                heapq.heappush(self._pushes, (self._position[reader], reader))
        return None

    def _answer_pull(self, node: ir.Node) -> Refusal | None:
        operator = self._operators.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if operator is None:
            return Refusal("operator", "an affine cannot be pulled through this operator", node)
        wanted = {
            index: self._plan.wanted[value] for index, value in enumerate(node.outputs) if value in self._plan.wanted
        }
        return self._take(node, operator.pull(node, wanted))

    def _answer_push(self, node: ir.Node) -> Refusal | None:
        operator = self._operators.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if operator is None:
            return Refusal("operator", "an affine cannot be pushed through this operator", node)
        missing = {
            index: self._plan.missing[value]
            for index, value in enumerate(node.inputs)
            if value is not None and value in self._plan.missing
        }
        return self._take(node, operator.push(node, missing))

    def _take(self, node: ir.Node, answer: Step | Refusal) -> Refusal | None:
        if isinstance(answer, Refusal):
            return answer
        self._plan.path.append(node)
        if answer.rewrite is not None:
            self._plan.rewrites.append(answer.rewrite)
        for index, affine in answer.pulls.items():
            if (refusal := self._pull(node, index, node.inputs[index], affine)) is not None:
                return refusal
        for index, affine in answer.pushes.items():
            if (refusal := self._push(node, node.outputs[index], affine)) is not None:
                return refusal
        return None

    def _other_reader(self) -> Refusal | None:
        """Return a refusal if somebody outside the plan reads a value that will change."""
        for value in self._plan.wanted:
            for reader, index in value.uses():
                if (reader, index) not in self._pull_edges:
                    producer = value.producer()
                    assert producer is not None  # only such values are pulled
                    because = f"its value {value.name!r} is also read by {reader.op_type} {node_label(reader)!r}"
                    return Refusal("other-readers", because, producer)
        return None

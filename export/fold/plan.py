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
from itertools import count
from typing import Protocol

import onnx_ir as ir

from normfold.export.fold.affine import Affine
from normfold.export.fold.cost import Cost, moved_by, pays
from normfold.export.fold.edits import Change
from normfold.export.fold.rejection import Refusal, node_label


@dataclass(frozen=True, eq=False)
class Step:
    """One node's answer: what it asks of its inputs, what its outputs lack, how it changes.

    `unless_taken` is the reason to give if the readers refuse what the outputs lack: a last resort, of which nobody
    wants to hear that it failed too.
    """

    pulls: Mapping[int, Affine] = field(default_factory=dict)
    pushes: Mapping[int, Affine] = field(default_factory=dict)
    change: Change | None = None
    unless_taken: Refusal | None = None


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
    changes: list[Change] = field(default_factory=list)
    path: list[ir.Node] = field(default_factory=list)

    def overflow(self) -> Refusal | None:
        """Return a refusal if a constant that it makes does not fit float16."""
        for change in self.changes:
            for derived in change.made:
                if not derived.fits:
                    return Refusal("overflow", f"{derived.name!r} would not fit float16", change.node)
        return None

    def pays(self, node: ir.Node) -> bool:
        """Whether the network is no slower without a node, and with the constants as the plan changes them."""
        return pays(Cost(1, 0, moved_by(node)), Cost(0, 0, sum(change.growth for change in self.changes)))


class Planner:
    """Makes plans over one graph.

    Args:
        operators: operator type to family; a type that is not listed refuses.
        position: every node's place in the graph's topological order.
    """

    def __init__(self, operators: Mapping[str, Operator], position: Mapping[ir.Node, int]) -> None:
        self._operators = operators
        self._position = position

    def back(self, node: ir.Node, affine: Affine, index: int = 0) -> Plan | Refusal:
        """Plan for input number `index` of `node` to carry the affine, so that `node` can go."""
        search = _Search(self._operators, self._position, start=node)
        return search.run(pull=(index, affine))

    def forward(self, node: ir.Node, affine: Affine) -> Plan | Refusal:
        """Plan for the readers of `node` to do without the affine, so that `node` can go."""
        search = _Search(self._operators, self._position, start=node)
        return search.run(push=affine)


class _Search:
    """The making of one plan: pulls are answered against the topological order, pushes along it.

    So a node is asked only when all that is wanted of it, or missing at it, is known; it answers once.
    """

    def __init__(self, operators: Mapping[str, Operator], position: Mapping[ir.Node, int], start: ir.Node) -> None:
        self._operators = operators
        self._position = position
        self._start = start
        self._plan = Plan()
        self._pull_edges: set[tuple[ir.Node, int]] = set()
        self._asked: dict[ir.Node, bool] = {}  # node to whether it is asked to pull
        self._answered: set[ir.Node] = set()
        self._queue: list[tuple[bool, int, int, ir.Node]] = []
        self._ticket = count()
        self._reason: Refusal | None = None

    def run(
        self,
        pull: tuple[int, Affine] | None = None,
        push: Affine | None = None,
    ) -> Plan | Refusal:
        refusal = None
        if pull is not None:
            refusal = self._pull(self._start, pull[0], self._start.inputs[pull[0]], pull[1])
        if push is not None:
            refusal = self._push(self._start, self._start.outputs[0], push)
        while refusal is None and self._queue:
            node = heapq.heappop(self._queue)[-1]
            if node not in self._answered:
                refusal = self._answer(node)
        refusal = refusal or self._other_reader()
        return self._plan if refusal is None else self._reason or refusal

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
            return _conflict(producer, value)
        self._pull_edges.add((reader, index))
        return self._ask(producer, value, to_pull=True)

    def _push(self, producer: ir.Node, value: ir.Value, affine: Affine) -> Refusal | None:
        """Note that a value arrives at its readers without an affine."""
        if value.is_graph_output():
            return Refusal("graph-output", f"its value {value.name!r} is an output of the graph", producer)
        if value in self._plan.wanted:
            return _conflict(producer, value)
        self._plan.missing[value] = affine
        for reader, _ in value.uses():
            if reader.graph is not self._start.graph:
                return Refusal("subgraph", f"its value {value.name!r} is also read in a subgraph", producer)
            if (refusal := self._ask(reader, value, to_pull=False)) is not None:
                return refusal
        return None

    def _ask(self, node: ir.Node, value: ir.Value, to_pull: bool) -> Refusal | None:
        """Queue a node for its answer: pulls first, the last node of the graph foremost; then pushes, the first."""
        if node in self._answered or self._asked.setdefault(node, to_pull) is not to_pull:
            return _conflict(node, value)
        place = self._position[node]
        heapq.heappush(self._queue, (not to_pull, -place if to_pull else place, next(self._ticket), node))
        return None

    def _answer(self, node: ir.Node) -> Refusal | None:
        to_pull = self._asked[node]
        operator = self._operators.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if operator is None:
            return Refusal("operator", f"an affine cannot be {'pulled' if to_pull else 'pushed'} through it", node)
        known, values = (self._plan.wanted, node.outputs) if to_pull else (self._plan.missing, node.inputs)
        affines = {index: known[value] for index, value in enumerate(values) if value is not None and value in known}
        answer = operator.pull(node, affines) if to_pull else operator.push(node, affines)
        return answer if isinstance(answer, Refusal) else self._take(node, answer)

    def _take(self, node: ir.Node, step: Step) -> Refusal | None:
        self._plan.path.append(node)
        self._answered.add(node)
        self._reason = self._reason or step.unless_taken
        if step.change is not None:
            self._plan.changes.append(step.change)
        for index, affine in step.pulls.items():
            if (refusal := self._pull(node, index, node.inputs[index], affine)) is not None:
                return refusal
        for index, affine in step.pushes.items():
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


def _conflict(node: ir.Node, value: ir.Value) -> Refusal:
    return Refusal("conflict", f"two different affines would be needed on the value {value.name!r}", node)

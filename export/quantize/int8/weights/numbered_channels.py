"""Numbers for the channels of a network's values: those with one number must take one factor.

Every channel that a layer gives has a number of its own. What stands between layers is asked as the fold asks it: an
operator that passes a positive gain from its inputs to its outputs (`fold.plan.OperatorFamily.fold_forward`) passes the
numbers likewise, so that Concat, Split, Reshape and pools need no rules here. Where an operator adds or compares
channels, their numbers become one. FIXED is the number of channels that take no factor.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.operators.table import OPERATORS
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.constants import constant_tensor
from normfold.export.graph.nodes import all_graphs, all_nodes, bodies_of, reads_shape_alone
from normfold.export.graph.shapes import rank_of, sizes_of
from normfold.export.quantize.int8.weights.factor_layers import FactorLayer

FIXED = 1

_ALIKE = frozenset({"Add", "Sub", "Sum", "Mean", "Max", "Min", "Where"})
"""Operators whose inputs must have the same factor."""

LAYOUTS = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"})
"""Operators whose output may have channels on other axes than the second."""

Numbers = npt.NDArray[np.int64]


class Numbering:
    """Sets of numbers that have become one; each set is known by its least number."""

    def __init__(self) -> None:
        self._parents: Numbers = np.arange(FIXED + 1)

    def new(self, count: int) -> Numbers:
        """Return so many numbers that no channel has."""
        first = len(self._parents)
        self._parents = np.concatenate([self._parents, np.arange(first, first + count)])
        return self._parents[first:].copy()

    def of(self, numbers: Numbers) -> Numbers:
        """Return the least number of the set that each number is in."""
        found = self._parents[numbers]
        while (found != (above := self._parents[found])).any():
            found = above
        return found

    def join(self, first: Numbers, second: Numbers) -> None:
        """Make one set of those of each pair, of arrays that broadcast against each other."""
        pairs = np.stack([each.reshape(-1) for each in np.broadcast_arrays(first, second)])
        for one, other in np.unique(pairs, axis=1).T:
            least, other = sorted(self.of(np.array([one, other])))
            self._parents[other] = least

    def fix(self, numbers: Numbers) -> None:
        """Let some channels take no factor."""
        self.join(numbers, np.array(FIXED))


class NumberedChannels:
    """The numbers of all float values of a graph.

    Args:
        graph: prepared.
        layers: those that take factors, by node.
    """

    def __init__(self, graph: ir.Graph, layers: Mapping[ir.Node, FactorLayer]) -> None:
        self._numbering = Numbering()
        self._found: dict[ir.Value, Numbers] = {}
        for node in graph:
            if node in layers:
                self._number_layer(layers[node])
            elif not reads_shape_alone(node):
                self._number_others(node)
        for value in graph.outputs:
            self._numbering.fix(self._numbers(value))

    def values(self) -> dict[ir.Value, Numbers]:
        """Return the numbers of each value that a node gives, in the order of the graph: an array that broadcasts
        against the value.
        """
        return {value: self._numbering.of(numbers) for value, numbers in self._found.items()}

    def by_channel(self, value: ir.Value, count: int) -> Numbers | None:
        """Return the numbers along the second axis, (count,); None where channels lie along another."""
        return _along_channels(self._numbers(value), count)

    def _numbers(self, value: ir.Value) -> Numbers:
        found = self._found.get(value)
        return np.full([1] * (rank_of(value) or 0), FIXED) if found is None else self._numbering.of(found)

    def _number_layer(self, layer: FactorLayer) -> None:
        if self.by_channel(layer.source, layer.inputs) is None:
            self._numbering.fix(self._numbers(layer.source))
        rank = rank_of(layer.result) or 2
        self._found[layer.result] = self._numbering.new(layer.outputs).reshape(1, -1, *[1] * (rank - 2))

    def _number_others(self, node: ir.Node) -> None:
        for value in _read_in_bodies(node):
            self._numbering.fix(self._numbers(value))
        read = {index: value for index, value in enumerate(node.inputs) if value is not None and _is_activation(value)}
        passed = self._passed(node, {index: self._numbers(value) for index, value in read.items()})
        if passed is None:
            for value in read.values():
                self._numbering.fix(self._numbers(value))
        for index, value in enumerate(node.outputs):
            if passed is not None and index in passed:
                self._found[value] = passed[index]

    def _passed(self, node: ir.Node, read: Mapping[int, Numbers]) -> dict[int, Numbers] | None:
        """Return the numbers of a node's outputs; None where it passes none."""
        family = OPERATORS.get(node.op_type) if node.domain == "" else None
        if family is None or not read or rank_of(node.outputs[0]) is None:
            return None
        if node.op_type in _ALIKE:
            read = self._joined(read)
        elif node.op_type in ("Mul", "Div"):
            read = self._of_one_factor(node, read)
        if not read or not all(each.ndim for each in read.values()):
            return None
        removed = {index: Affine(each.astype(np.float64), np.zeros([1] * each.ndim)) for index, each in read.items()}
        step = family.fold_forward(node, removed)
        if isinstance(step, Rejection) or step.edit is not None or step.backward:
            return None
        known = np.unique(np.concatenate([[FIXED], *(each.reshape(-1) for each in read.values())]))
        passed = {index: affine.gain for index, affine in step.forward.items()}
        if not all(np.isin(gain, known).all() and _is_representable(node, gain) for gain in passed.values()):
            return None
        return {index: gain.astype(np.int64) for index, gain in passed.items()}

    def _joined(self, read: Mapping[int, Numbers]) -> dict[int, Numbers]:
        """Make one of the numbers of channels that meet; return none where the inputs differ in rank."""
        if len({each.ndim for each in read.values()}) != 1:
            return {}
        first, *others = read.values()
        for each in others:
            self._numbering.join(first, each)
        return {index: self._numbering.of(each) for index, each in read.items()}

    def _of_one_factor(self, node: ir.Node, read: Mapping[int, Numbers]) -> dict[int, Numbers]:
        """Return the numbers of the operand of a product that has its shape; the others are fixed, as a gate is."""
        operands = [0] if node.op_type == "Div" else [0, 1]
        result = sizes_of(node.outputs[0])
        whole = next((index for index in operands if index in read and sizes_of(node.inputs[index]) == result), None)
        for index, each in read.items():
            if index != whole:
                self._numbering.fix(each)
        return {} if whole is None else {whole: self._numbering.of(read[whole])}


def _along_channels(numbers: Numbers, count: int) -> Numbers | None:
    if numbers.ndim < 2 or numbers.size != numbers.shape[1] or numbers.size not in (1, count):
        return None
    return np.broadcast_to(numbers.reshape(-1), (count,))


def _is_representable(node: ir.Node, gain: Array) -> bool:
    return node.op_type in LAYOUTS or (gain.ndim > 1 and gain.size == gain.shape[1]) or gain.size == 1


def _is_activation(value: ir.Value) -> bool:
    return constant_tensor(value) is None and value.dtype in (None, ir.DataType.FLOAT)


def _read_in_bodies(node: ir.Node) -> list[ir.Value]:
    """Return the values from outside that the bodies of control flow inside a node read."""
    bodies = bodies_of(node)
    inner = [each for body in bodies for reader in all_nodes(body) for each in reader.inputs]
    inner += [each for body in bodies for graph in all_graphs(body) for each in graph.outputs]
    return [value for value in inner if value is not None and constant_tensor(value) is None]

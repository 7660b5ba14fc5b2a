"""Sums of linear branches: a tree of Add, Sub and Sum is one sum of leaves, each with the kernel that makes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.fold.batchnorm_parameters import read_batchnorm
from normfold.export.fold.elementwise import read_elementwise
from normfold.export.fold.merge.kernel import Kernel, affine_kernel, conv_kernel, pool_kernel
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.nodes import is_batchnorm, opset_of, sole_reader
from normfold.export.graph.shapes import rank_of, sizes_of, static_size

SUMS = frozenset({"Add", "Sub", "Sum"})


@dataclass(frozen=True, eq=False)
class Leaf:
    """A summand: what a kernel makes of a source, by a node with one reader, or by none (the source itself)."""

    value: ir.Value
    sign: int
    source: ir.Value
    node: ir.Node | None = None
    kernel: Kernel | None = None


def is_root(node: ir.Node) -> bool:
    """Return whether a node is the end of a sum: its value does not go into one more node of the sum alone."""
    reader = sole_reader(node.outputs[0])
    return _is_sum(node) and not (reader is not None and _is_sum(reader))


def _is_sum(node: ir.Node) -> bool:
    if node.op_type not in SUMS or node.domain != "" or read_elementwise(node) is not None:
        return False
    sizes = {sizes_of(value) for value in (*node.inputs, *node.outputs)}
    return len(sizes) == 1 and None not in sizes


def read_sum(root: ir.Node) -> tuple[list[ir.Node], list[Leaf]]:
    """Return the nodes of the sum that ends in a node, that one first, and its leaves."""
    tree: list[ir.Node] = []
    leaves: list[Leaf] = []
    waiting = [(root, 1)]
    while waiting:
        node, sign = waiting.pop()
        tree.append(node)
        for index, value in enumerate(node.inputs):
            assert value is not None  # a sum has no optional operands
            own = -sign if node.op_type == "Sub" and index == 1 else sign
            producer = value.producer()
            if producer is not None and _is_sum(producer) and sole_reader(value) is not None:
                waiting.append((producer, own))
            else:
                leaves.append(_read_leaf(value, own))
    return tree, leaves


def _read_leaf(value: ir.Value, sign: int) -> Leaf:
    node, rank = value.producer(), rank_of(value)
    if rank is None or rank < 3:
        return Leaf(value, sign, value)
    if node is not None and sole_reader(value) is not None and (read := _read_node(node, rank)) is not None:
        source, kernel = read
        return Leaf(value, sign, source, node, kernel)
    channels = static_size(value, 1)
    identity = affine_kernel(np.ones(channels), np.zeros(channels), rank - 2) if channels else None
    return Leaf(value, sign, value, None, identity)


def _read_node(node: ir.Node, rank: int) -> tuple[ir.Value, Kernel] | None:
    """Return what a linear node reads, and its kernel."""
    if node.domain != "" or not node.inputs:
        return None  # of another domain, or a Constant
    source, kernel = node.inputs[0], None
    if node.op_type == "Conv":
        kernel = conv_kernel(node)
    elif node.op_type == "AveragePool" and (channels := static_size(source, 1)) is not None:
        kernel = pool_kernel(node, channels)
    elif is_batchnorm(node):
        own = read_batchnorm(node, opset_of(node))
        if not isinstance(own, Rejection):
            vectors = own.affine(rank).along(1, own.scale.size)
            kernel = affine_kernel(*vectors, rank - 2) if vectors is not None else None
    elif (read := read_elementwise(node)) is not None and (channels := static_size(read.source, 1)) is not None:
        vectors = read.affine.along(1, channels)
        source, kernel = read.source, affine_kernel(*vectors, rank - 2) if vectors is not None else None
    return (source, kernel) if source is not None and kernel is not None else None

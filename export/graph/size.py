"""The size of a network as it runs: its nodes, and the multiplications of one row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from normfold.export.graph.constants import FLOATS
from normfold.export.graph.nodes import all_nodes
from normfold.export.graph.shapes import sizes_of

COUNTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Mul", "Div", "BatchNormalization"})
"""Operators whose multiplications are counted: those that a fold changes."""


@dataclass(frozen=True)
class GraphSize:
    """Nodes of a graph, and its multiplications for one row of the batch; these are None where a size is not known."""

    nodes: int
    multiplications: int | None

    def to_dict(self) -> dict[str, int | None]:
        """Return plain types for JSON."""
        return {"nodes": self.nodes, "multiplications": self.multiplications}


def size_of(model: ir.Model) -> GraphSize:
    """Return the size of a model whose shapes are inferred.

    Subgraphs count too; Constant nodes do not, as no runtime runs them.
    """
    nodes = [node for node in all_nodes(model.graph) if node.op_type != "Constant"]
    counts = [_multiplications(node) for node in nodes if node.domain == "" and node.op_type in COUNTED]
    known = [count for count in counts if count is not None]
    return GraphSize(len(nodes), sum(known) if len(known) == len(counts) else None)


def _multiplications(node: ir.Node) -> int | None:
    """Return the multiplications of a node for one row, None if a size is not known; the first axis counts as one row.

    An element of the output takes one for each element that it is a sum of: of a Conv the weights of its filter, of a
    Gemm or MatMul the elements of the axis that is summed over. Of a ConvTranspose each element of the input takes one
    for each weight of its channel.
    """
    output, (first, second) = node.outputs[0], (*node.inputs[:2], None)[:2]
    if output.dtype is not None and output.dtype not in FLOATS:
        return 0  # arithmetic of shapes
    match node.op_type:
        case "Conv":
            return _product(_row(output), _sizes(second)[1:])
        case "ConvTranspose":
            return _product(_row(first), _sizes(second)[1:])
        case "Gemm":
            return _product(
                _row(output), _sizes(second)[:1] if not node.attributes.get_int("transB", 0) else _last(second)
            )
        case "MatMul":
            return _product(_row(output), _last(first))
        case _:
            return _product(_row(output))


def _sizes(value: ir.Value | None) -> Sequence[int | str | None]:
    """Return the sizes of a value; one of unknown size where its rank is not known."""
    if value is not None and value.const_value is not None:
        return tuple(value.const_value.shape.numpy())
    sizes = sizes_of(value)
    return (None,) * 2 if sizes is None else sizes


def _row(value: ir.Value | None) -> Sequence[int | str | None]:
    return _sizes(value)[1:]


def _last(value: ir.Value | None) -> Sequence[int | str | None]:
    return _sizes(value)[-1:]


def _product(*parts: Sequence[int | str | None]) -> int | None:
    """Return the product of all sizes, None if one is not a number."""
    sizes = [size for part in parts for size in part]
    numbers = [size for size in sizes if isinstance(size, int)]
    return math.prod(numbers) if len(numbers) == len(sizes) else None

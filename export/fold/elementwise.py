"""Affines that are not called BatchNormalization: Mul, Add, Sub and Div by a constant vector.

Exporters write layer scales, learnable affines and decomposed BatchNormalization this way. Scalars are left alone,
unless they do nothing (x + 0, x * 1): they are mostly parts of an activation (GELU, hard swish) or of attention, which
runtimes recognise by their nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array, constant_axes_dropped
from normfold.export.fold.affine import Affine
from normfold.export.graph.constants import constant_shape, float64_reader, is_constant
from normfold.export.graph.shapes import broadcasts_into, rank_of, sizes_of

ELEMENTWISE_OPS = frozenset({"Add", "Sub", "Mul", "Div"})


@dataclass(frozen=True, eq=False)
class Elementwise:
    """A node that is an affine of one of its two operands."""

    node: ir.Node
    source: ir.Value
    affine: Affine


def read_elementwise(node: ir.Node, scalars: bool = False) -> Elementwise | None:
    """Read a node as an affine that varies along one axis or does nothing; None if it is neither.

    With `scalars`, one that is the same everywhere counts too.
    """
    index = constant_operand(node)
    if index is None or (node.op_type == "Div" and index == 0):
        return None
    source = node.inputs[1 - index]
    shape, rank = constant_shape(node.inputs[index]), rank_of(source)
    if source is None or rank is None or sum(size != 1 for size in shape) > 1:
        return None
    if not broadcasts_into(shape, sizes_of(source)):
        return None
    constant = constant_axes_dropped(float64_reader(node.inputs[index])().reshape((1,) * (rank - len(shape)) + shape))
    affine = _affine(node.op_type, constant, constant_first=index == 0)
    if not np.isfinite(affine.gain).all() or (constant.size == 1 and not scalars and not affine.is_identity):
        return None
    return Elementwise(node, source, affine)


def constant_operand(node: ir.Node) -> int | None:
    """Return which operand of an Add, Sub, Mul or Div is a constant that may be replaced, if exactly one is."""
    if node.op_type not in ELEMENTWISE_OPS or node.domain != "":
        return None
    constant = [is_constant(value) for value in node.inputs]
    return constant.index(True) if sum(constant) == 1 else None


def is_layernorm_affine(node: ir.Node) -> bool:
    """Return whether a node belongs to the affine at the end of a decomposed LayerNormalization.

    Runtimes recognise that by its nodes, and run it much faster as a whole: to push its affine forward would cost more
    than it gains.
    """
    source: ir.Value | None = node.outputs[0]
    producer: ir.Node | None = node
    while producer is not None and (index := constant_operand(producer)) is not None:
        source = producer.inputs[1 - index]
        producer = source.producer() if source is not None else None
    return producer is not None and producer.op_type in ("Div", "Mul")


def _affine(op_type: str, constant: Array, constant_first: bool) -> Affine:
    one = np.ones([1] * constant.ndim)
    zero = np.zeros([1] * constant.ndim)
    if op_type == "Mul":
        return Affine(constant, zero)
    if op_type == "Div":
        with np.errstate(divide="ignore"):
            return Affine(1 / constant, zero)
    if op_type == "Sub":
        return Affine(-one, constant) if constant_first else Affine(one, -constant)
    return Affine(one, constant)

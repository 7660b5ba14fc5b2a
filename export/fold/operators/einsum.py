"""Einsum of an activation and a constant: a product summed over the labels that the output lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_letters

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.affine import Affine
from normfold.export.fold.edits import Rewrite
from normfold.export.fold.plan import Step
from normfold.export.fold.reason_codes import ReasonCode
from normfold.export.fold.rejection import Rejection, reject_not_per_channel, reject_overridable
from normfold.export.fold.weights.weight import Weight, is_weight, read_weight
from normfold.export.graph.shapes import rank_of

_ELLIPSIS = "..."


@dataclass(frozen=True, eq=False)
class _Product:
    """The constant, and the labels of its axes, the activation's and the output's."""

    weight: Weight
    own: str
    other: str
    result: str


def fold_backward(node: ir.Node, required: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb a gain along labels that the constant has: W' = W * g. There is no bias to take an offset."""
    product = _read(node)
    if isinstance(product, Rejection):
        return product
    affine = required[0]
    if not _varies_only(affine, product.result, product.own):
        return reject_not_per_channel(node)
    if affine.has_offset:
        return Rejection(ReasonCode.NO_BIAS, node, "it has no bias that could take the offset")
    return _rewritten(product, _arranged(affine.gain, product.result, product.own))


def fold_forward(node: ir.Node, removed: Mapping[int, Affine]) -> Step | Rejection:
    """Absorb a gain along labels that the constant has; the offset's product with W is left to the readers."""
    product = _read(node)
    if isinstance(product, Rejection):
        return product
    affine = removed[1 - product.weight.index]
    if not _varies_only(affine, product.other, product.own):
        return reject_not_per_channel(node)
    step = _rewritten(product, _arranged(affine.gain, product.other, product.own))
    if isinstance(step, Rejection) or not affine.has_offset:
        return step
    if any(label not in product.own and label not in product.result for label in product.other):
        because = "it sums the value along an axis that its constant lacks, so an offset would be added up"
        return Rejection(ReasonCode.REDUCED_AXIS, node, because)
    added = product.weight.read() * _arranged(affine.offset, product.other, product.own)
    kept = [label for label in product.result if label in product.own]
    summed = added.sum(axis=tuple(axis for axis, label in enumerate(product.own) if label not in kept))
    offset = _arranged(summed, "".join(label for label in product.own if label in kept), product.result)
    return Step(forward={0: Affine(np.ones([1] * offset.ndim), offset)}, edit=step.edit)


def _read(node: ir.Node) -> _Product | Rejection:
    """Read a product of an activation and a constant; labels are single letters, each once in an operand."""
    index = next((index for index in (1, 0) if len(node.inputs) == 2 and is_weight(node, index)), None)
    if index is None:
        detail = "it is not the product of one value and one constant"
        return reject_overridable(node) or Rejection(ReasonCode.OPERATOR, node, detail)
    equation = _equation(node.attributes.get_string("equation", ""), rank_of(node.inputs[1 - index]), 1 - index)
    if equation is None:
        because = (
            "a label stands twice in an operand of its equation, or an ellipsis in its constant or of unknown length"
        )
        return Rejection(ReasonCode.OPERATOR, node, because)
    operands, result = equation
    weight = read_weight(node, index)
    if isinstance(weight, Rejection):
        return weight
    return _Product(weight, operands[index], operands[1 - index], result)


def _equation(equation: str, rank: int | None, ranked: int) -> tuple[list[str], str] | None:
    """Return the labels of two operands and of the result, each operand's different from each other.

    Args:
        equation: as the node has it; without an arrow, the result has the labels that stand once, in their order.
        rank: of one operand, None where it is not known; its ellipsis stands for labels of its own.
        ranked: which one. The other has no ellipsis.
    """
    terms, arrow, result = equation.replace(" ", "").partition("->")
    operands = terms.split(",")
    counts = Counter(terms.replace(",", "").replace(".", ""))
    if not arrow:
        single = "".join(sorted(label for label, count in counts.items() if count == 1))
        result = (_ELLIPSIS if _ELLIPSIS in terms else "") + single
    if len(operands) != 2 or _ELLIPSIS in operands[1 - ranked]:
        return None
    if _ELLIPSIS in operands[ranked]:
        if rank is None:
            return None
        length = rank - len(operands[ranked].replace(_ELLIPSIS, ""))
        added = "".join(letter for letter in ascii_letters if letter not in counts)[: max(length, 0)]
        operands[ranked] = operands[ranked].replace(_ELLIPSIS, added)
        result = result.replace(_ELLIPSIS, added)
    different = all("." not in term and len(set(term)) == len(term) for term in (*operands, result))
    return (operands, result) if different else None


def _varies_only(affine: Affine, labels: str, allowed: str) -> bool:
    """Return whether an affine of a value with these labels varies along allowed ones only."""
    axes = [axis for axis, label in enumerate(labels) if label not in allowed]
    return affine.rank == len(labels) and not affine.varies_along(axes)


def _arranged(array: Array, labels: str, target: Sequence[str]) -> Array:
    """Return an array with its axes in the order of the target's labels; size 1 for a label that it lacks.

    Axes whose label the target lacks have size 1, and are dropped.
    """
    kept = [axis for axis, label in enumerate(labels) if label in target]
    array = array.reshape([array.shape[axis] for axis in kept])
    present = [labels[axis] for axis in kept]
    order = [present.index(label) for label in target if label in present]
    sizes = iter(array.transpose(order).shape)
    return array.transpose(order).reshape([next(sizes) if label in present else 1 for label in target])


def _rewritten(product: _Product, factor: Array) -> Step | Rejection:
    scaled = product.weight.scaled(factor)
    if isinstance(scaled, Rejection):
        return scaled
    return Step(edit=Rewrite(product.weight.node, scaled.constants, sources=scaled.sources))

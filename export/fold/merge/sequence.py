"""Two layers in a row become one: two Convs of which one is 1×1, or two Gemms, where the product costs no more.

    1×1 before Conv: W'[o, i, k] = sum over c of B[o, c, k] A[c, i]      b' = b + sum over c and k of B[o, c, k] a[c]
    Conv before 1×1: W'[o, i, k] = sum over c of B[o, c] A[c, i, k]      b' = b + sum over c of B[o, c] a[c]
    Gemm and Gemm:   the same without k

The bias a of a 1×1 Conv passes a padded Conv after it only if it is zero: padding stands for zeros after the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.cost import Cost, is_no_slower
from normfold.export.fold.edits import Rewrite, input_name, replacement
from normfold.export.fold.layer import Layer, read_layer
from normfold.export.fold.merge.kernel import pads_by_input
from normfold.export.graph.constants import DerivedConstant
from normfold.export.graph.editor import Editor
from normfold.export.graph.nodes import sole_reader

_WINDOW = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")
"""Attributes of a Conv that say how its window moves."""


def merge_sequences(editor: Editor) -> list[tuple[ir.Node, ir.Node]]:
    """Merge the second of each such pair with the first, in place.

    Returns:
        Pairs of the layer that was kept (the second) and the one that went into it.
    """
    merged = []
    for second in list(editor.graph):
        first = second.inputs[0].producer() if second.inputs and second.inputs[0] is not None else None
        if first is None or not _is_pair(first, second):
            continue
        edit = _product(first, second)
        if edit is not None and all(derived.fits for derived in edit.new_constants):
            source = first.inputs[0]
            edit.apply(editor)
            second.replace_input_with(0, source)
            editor.graph.remove(first, safe=True)
            merged.append((second, first))
    return merged


def _is_pair(first: ir.Node, second: ir.Node) -> bool:
    same = first.op_type == second.op_type and first.op_type in ("Conv", "Gemm")
    return same and first.domain == second.domain == "" and sole_reader(first.outputs[0]) is second


def _product(first: ir.Node, second: ir.Node) -> Rewrite | None:
    before, after = read_layer(first), read_layer(second)
    if not isinstance(before, Layer) or not isinstance(after, Layer):
        return None
    return _conv_product(before, after) if first.op_type == "Conv" else _gemm_product(before, after)


def _conv_product(first: Layer, second: Layer) -> Rewrite | None:
    """Return the second Conv with both weights; dense layers only, one of kernel 1 and stride 1 without padding."""
    middle, inputs, *before = first.weight_shape
    outputs, _, *after = second.weight_shape
    if any(layer.node.attributes.get_int("group", 1) != 1 for layer in (first, second)):
        return None
    if _is_pointwise(first):
        carried = first.bias is not None and bool(np.any(first.bias()))
        if carried and _pads(second.node):
            return None
        size, window = after, second.node
    elif _is_pointwise(second):
        size, window = before, first.node
    else:
        return None
    own = middle * inputs * math.prod(before), outputs * middle * math.prod(after)
    if not is_no_slower(Cost(2, sum(own)), Cost(1, outputs * inputs * math.prod(size))):
        return None
    shape = (outputs, inputs, *size)

    def weight() -> Array:
        right, left = second.weight().reshape(outputs, middle, -1), first.weight().reshape(middle, inputs, -1)
        product: Array = np.einsum("ock,cij->oikj", right, left, optimize=True)  # one of k and j has size 1
        return product.reshape(shape)

    def bias() -> Array:
        own = np.zeros(outputs) if second.bias is None else second.bias()
        if first.bias is None:
            return own
        added: Array = np.einsum("ock,c->o", second.weight().reshape(outputs, middle, -1), first.bias())
        return own + added

    return _rewrite(first, second, shape, weight, bias, outputs, window)


def _is_pointwise(layer: Layer) -> bool:
    """Return whether a Conv sees one position at a time, and every one."""
    plain = all(
        number == neutral
        for name, neutral in (("strides", 1), ("pads", 0))
        for number in layer.node.attributes.get_ints(name, ())
    )
    return plain and all(length == 1 for length in layer.weight_shape[2:])


def _pads(node: ir.Node) -> bool:
    return any(node.attributes.get_ints("pads", ())) or pads_by_input(node)


def _gemm_product(first: Layer, second: Layer) -> Rewrite | None:
    """Return the second Gemm with both weights; only plain ones: alpha and beta 1, A not transposed, C a vector."""
    for layer in (first, second):
        attributes = layer.node.attributes
        plain = attributes.get_float("alpha", 1.0) == attributes.get_float("beta", 1.0) == 1.0
        columns = layer.weight_shape[0 if attributes.get_int("transB", 0) else 1]
        if (
            not plain
            or attributes.get_int("transA", 0) != 0
            or (layer.bias is not None and layer.bias_shape != (columns,))
        ):
            return None
    turned = [bool(layer.node.attributes.get_int("transB", 0)) for layer in (first, second)]
    inputs, middle = first.weight_shape[::-1] if turned[0] else first.weight_shape
    outputs = second.weight_shape[0 if turned[1] else 1]
    if not is_no_slower(Cost(2, inputs * middle + middle * outputs), Cost(1, inputs * outputs)):
        return None

    def factors() -> tuple[Array, Array]:
        left, right = first.weight(), second.weight()
        return (left.T if turned[0] else left), (right.T if turned[1] else right)

    def weight() -> Array:
        left, right = factors()
        product: Array = left @ right
        return product.T if turned[1] else product

    def bias() -> Array:
        own = np.zeros(outputs) if second.bias is None else second.bias()
        return own if first.bias is None else own + first.bias() @ factors()[1]

    shape = (outputs, inputs) if turned[1] else (inputs, outputs)
    return _rewrite(first, second, shape, weight, bias, outputs)


def _rewrite(
    first: Layer,
    second: Layer,
    shape: tuple[int, ...],
    weight: Callable[[], Array],
    bias: Callable[[], Array],
    outputs: int,
    window: ir.Node | None = None,
) -> Rewrite:
    """Return the second layer with these weights; a Conv moves its window as `window` does."""
    constants = {1: replacement(second.node, 1, "weight", weight, shape)}
    if first.bias is not None or second.bias is not None:
        constants[2] = DerivedConstant(input_name(second.node, 2, "bias"), (outputs,), second.dtype, bias)
    moved = {} if window is None or window is second.node else {name: window.attributes.get(name) for name in _WINDOW}
    return Rewrite(second.node, constants, copied=moved)

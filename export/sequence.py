"""Two layers in a row become one: 1×1 Conv then Conv, Gemm then Gemm, where the product costs no more than the two.

    Conv: W'[o, i, k] = sum over c of B[o, c, k] A[c, i]      b' = b + sum over c and k of B[o, c, k] a[c]
    Gemm: the same without k

The first one's bias a passes a padded second Conv only if it is zero: padding stands for zeros behind the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from export.affine import Array
from export.change import Rewrite
from export.constants import Derived
from export.editor import Editor
from export.layer import Layer, read_layer
from export.refusal import node_label


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
        change = _product(first, second)
        if change is not None:
            source = first.inputs[0]
            change.apply(editor)
            second.replace_input_with(0, source)
            editor.graph.remove(first, safe=True)
            merged.append((second, first))
    return merged


def _is_pair(first: ir.Node, second: ir.Node) -> bool:
    value = first.outputs[0]
    alone = len(value.uses()) == 1 and not value.is_graph_output() and first.graph is second.graph
    same = first.op_type == second.op_type and first.op_type in ("Conv", "Gemm")
    return alone and same and all(node.domain in ("", "ai.onnx") for node in (first, second))


def _product(first: ir.Node, second: ir.Node) -> Rewrite | None:
    before, behind = read_layer(first), read_layer(second)
    if not isinstance(before, Layer) or not isinstance(behind, Layer):
        return None
    return _conv_product(before, behind) if first.op_type == "Conv" else _gemm_product(before, behind)


def _conv_product(first: Layer, second: Layer) -> Rewrite | None:
    """Return the second Conv with both weights; dense layers only, the first of kernel 1 and stride 1."""
    middle, inputs, *kernel = first.weight_shape
    outputs, _, *size = second.weight_shape
    dense = all(layer.node.attributes.get_int("group", 1) == 1 for layer in (first, second))
    plain = all(length == 1 for length in kernel) and all(
        number == neutral
        for name, neutral in (("strides", 1), ("pads", 0))
        for number in first.node.attributes.get_ints(name, ())
    )
    taps = math.prod(size)
    pays = outputs * inputs * taps <= middle * inputs + outputs * middle * taps
    if not (dense and plain and pays) or (first.bias is not None and _pads(second.node) and np.any(first.bias())):
        return None
    shape = (outputs, inputs, *size)

    def weight() -> Array:
        behind, before = second.weight().reshape(outputs, middle, -1), first.weight().reshape(middle, inputs)
        product: Array = np.einsum("ock,ci->oik", behind, before, optimize=True)
        return product.reshape(shape)

    def bias() -> Array:
        own = np.zeros(outputs) if second.bias is None else second.bias()
        if first.bias is None:
            return own
        added: Array = np.einsum("ock,c->o", second.weight().reshape(outputs, middle, -1), first.bias())
        return own + added

    return _rewrite(first, second, shape, weight, bias, outputs)


def _pads(node: ir.Node) -> bool:
    auto_pad = node.attributes.get_string("auto_pad", "NOTSET")
    return any(node.attributes.get_ints("pads", ())) or auto_pad not in ("NOTSET", "VALID")


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
    if inputs * outputs > inputs * middle + middle * outputs:
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
) -> Rewrite:
    values = [second.node.inputs[index] if index < len(second.node.inputs) else None for index in (1, 2)]
    names = [
        (value.name if value is not None else None) or f"{node_label(second.node)}.{role}"
        for value, role in zip(values, ("weight", "bias"), strict=True)
    ]
    constants = {1: Derived(names[0], shape, second.dtype, weight)}
    if first.bias is not None or second.bias is not None:
        constants[2] = Derived(names[1], (outputs,), second.dtype, bias)
    return Rewrite(second.node, constants)

"""Parallel linear branches become one Conv: Add(Conv_a(x), Conv_b(x), x, affine(x), pool(x)), signs included.

A tree of Add, Sub and Sum is one sum of leaves. Leaves that are linear in the same value, each by one node or none, are
merged if their kernels fit into one that needs no more multiplications. What is left is summed by as many of the tree's
nodes as are needed; no node is added. Together with the fold, which takes scales into the merged Conv, this undoes
structural re-parameterisation wherever it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.fold.affine import Array
from normfold.export.fold.batchnorm import is_batchnorm, read_batchnorm
from normfold.export.fold.editor import Editor
from normfold.export.fold.elementwise import read_elementwise
from normfold.export.fold.merge.kernel import Kernel, affine_kernel, conv_kernel, pool_kernel, summed
from normfold.export.fold.rejection import Refusal, node_label
from normfold.export.graph.constants import Derived, constant_dtype
from normfold.export.graph.opsets import opset_of
from normfold.export.graph.shapes import rank_of, sizes_of, static_size

SUMS = frozenset({"Add", "Sub", "Sum"})


@dataclass(frozen=True, eq=False)
class Leaf:
    """A summand: what a kernel makes of a source, by a node that nobody else reads, or by none (the source itself)."""

    value: ir.Value
    sign: int
    source: ir.Value
    node: ir.Node | None = None
    kernel: Kernel | None = None


@dataclass(frozen=True, eq=False)
class Merged:
    """What a merge did: the node that was kept, and those that went into it."""

    into: ir.Node
    gone: tuple[ir.Node, ...]


def merge(editor: Editor) -> list[Merged]:
    """Merge the parallel branches of a graph, in place.

    Args:
        editor: of the graph, whose shapes are inferred.

    Returns:
        What was merged; empty if nothing was.
    """
    done: list[Merged] = []
    for root in [node for node in editor.graph if _is_root(node)]:
        tree, leaves = _read_sum(root)
        if any(node.op_type == "Sum" for node in tree) and any(leaf.sign < 0 for leaf in leaves):
            continue  # a Sum has no place for a sign
        merged = [bucket for bucket in _buckets(leaves) if len(bucket) > 1 and _merge(bucket, editor)]
        if merged:
            _rebuild(root, tree, leaves, merged, editor)
            done += [_describe(bucket) for bucket in merged]
    return done


def _is_root(node: ir.Node) -> bool:
    """Whether a node is the end of a sum: its value goes elsewhere than into one more node of the sum alone."""
    return _is_sum(node) and not (_has_one_reader(node.outputs[0]) and _is_sum(next(iter(node.outputs[0].uses())).node))


def _is_sum(node: ir.Node) -> bool:
    if node.op_type not in SUMS or node.domain not in ("", "ai.onnx") or read_elementwise(node) is not None:
        return False
    sizes = {sizes_of(value) for value in (*node.inputs, *node.outputs)}
    return len(sizes) == 1 and None not in sizes


def _has_one_reader(value: ir.Value) -> bool:
    uses = list(value.uses())
    producer = value.producer()
    return (
        len(uses) == 1 and not value.is_graph_output() and producer is not None and uses[0].node.graph is producer.graph
    )


def _read_sum(root: ir.Node) -> tuple[list[ir.Node], list[Leaf]]:
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
            if producer is not None and _is_sum(producer) and _has_one_reader(value):
                waiting.append((producer, own))
            else:
                leaves.append(_read_leaf(value, own))
    return tree, leaves


def _read_leaf(value: ir.Value, sign: int) -> Leaf:
    node, rank = value.producer(), rank_of(value)
    if rank is None or rank < 3:
        return Leaf(value, sign, value)
    if node is not None and _has_one_reader(value) and (read := _read_node(node, rank)) is not None:
        source, kernel = read
        return Leaf(value, sign, source, node, kernel)
    channels = static_size(value, 1)
    identity = affine_kernel(np.ones(channels), np.zeros(channels), rank - 2) if channels else None
    return Leaf(value, sign, value, None, identity)


def _read_node(node: ir.Node, rank: int) -> tuple[ir.Value, Kernel] | None:
    """Return what a linear node reads, and its kernel."""
    source, kernel = node.inputs[0], None
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Conv":
        kernel = conv_kernel(node)
    elif node.op_type == "AveragePool" and (channels := static_size(source, 1)) is not None:
        kernel = pool_kernel(node, channels)
    elif is_batchnorm(node):
        own = read_batchnorm(node, opset_of(node))
        if not isinstance(own, Refusal):
            vectors = own.affine(rank).along(1, own.scale.size)
            kernel = affine_kernel(*vectors, rank - 2) if vectors is not None else None
    elif (read := read_elementwise(node)) is not None and (channels := static_size(read.source, 1)) is not None:
        vectors = read.affine.along(1, channels)
        source, kernel = read.source, affine_kernel(*vectors, rank - 2) if vectors is not None else None
    return (source, kernel) if source is not None and kernel is not None else None


def _buckets(leaves: Sequence[Leaf]) -> Iterator[list[Leaf]]:
    """Sort leaves into buckets that one kernel can hold: the same source, the largest kernels first."""
    buckets: list[list[Leaf]] = []
    kernels = [(leaf, leaf.kernel) for leaf in leaves if leaf.kernel is not None]
    for leaf, _ in sorted(kernels, key=lambda pair: -pair[1].multiplications):
        for bucket in buckets:
            if bucket[0].source is leaf.source and _sum_of([*bucket, leaf]) is not None:
                bucket.append(leaf)
                break
        else:
            buckets.append([leaf])
    yield from buckets


def _sum_of(bucket: Sequence[Leaf]) -> Kernel | None:
    kernels = [leaf.kernel for leaf in bucket if leaf.kernel is not None]
    return summed(kernels, [leaf.sign for leaf in bucket])


def _into(bucket: Sequence[Leaf]) -> ir.Node | None:
    """Return the node that can hold the whole bucket: its first Conv, or a BatchNormalization if all are affines."""
    nodes = [leaf.node for leaf in bucket if leaf.node is not None]
    convs = [node for node in nodes if node.op_type == "Conv"]
    if convs or any(node.op_type == "AveragePool" for node in nodes):
        return convs[0] if convs else None
    return next((node for node in nodes if is_batchnorm(node)), None)


def _merge(bucket: Sequence[Leaf], editor: Editor) -> bool:
    """Write the sum of a bucket into one of its nodes; False if none can hold it."""
    node, kernel = _into(bucket), _sum_of(bucket)
    if node is None or kernel is None:
        return False
    if is_batchnorm(node):
        return _write_batchnorm(node, kernel, editor)
    dtype, weight = constant_dtype(node.inputs[1]), node.inputs[1]
    shape = (kernel.outputs, kernel.inputs // kernel.group, *kernel.size)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    bias_name = bias.name if bias is not None and bias.name else f"{node_label(node)}.bias"
    name = weight.name if weight is not None and weight.name else f"{node_label(node)}.weight"
    constants = Derived(name, shape, dtype, kernel.weight), Derived(bias_name, (kernel.outputs,), dtype, kernel.bias)
    if not all(constant.fits for constant in constants):
        return False
    for index, constant in enumerate(constants, start=1):
        editor.put_constant(node, index, constant)
    for key, numbers in (
        ("kernel_shape", kernel.size),
        ("dilations", kernel.dilations),
        ("pads", (*kernel.begins, *kernel.ends)),
    ):
        node.attributes[key] = ir.AttrInt64s(key, list(numbers))
    node.attributes["group"] = ir.AttrInt64("group", kernel.group)
    node.attributes.pop("auto_pad", None)
    return True


def _write_batchnorm(node: ir.Node, kernel: Kernel, editor: Editor) -> bool:
    """Give a BatchNormalization the scale and shift that make its affine the kernel's."""
    own = read_batchnorm(node, opset_of(node))
    if isinstance(own, Refusal):
        return False
    gain = kernel.weight().reshape(-1)
    values = gain * np.sqrt(own.running_var + own.epsilon), kernel.bias() + gain * own.running_mean
    constants = []
    for index, array in zip((1, 2), values, strict=True):
        value = node.inputs[index]
        name = value.name if value is not None and value.name else f"{node_label(node)}.{index}"
        constants.append(Derived(name, array.shape, constant_dtype(value), _constant(array)))
    if not all(constant.fits for constant in constants):
        return False
    for index, constant in enumerate(constants, start=1):
        editor.put_constant(node, index, constant)
    return True


def _constant(array: Array) -> Callable[[], Array]:
    return lambda: array


def _rebuild(root: ir.Node, tree: list[ir.Node], leaves: list[Leaf], merged: list[list[Leaf]], editor: Editor) -> None:
    """Sum the merged buckets and the other leaves with nodes of the tree, and remove all that is not needed."""
    absorbed = {leaf for bucket in merged for leaf in bucket}
    summands = [(_output(bucket), 1) for bucket in merged]
    summands += [(leaf.value, leaf.sign) for leaf in leaves if leaf not in absorbed]
    summands.sort(key=lambda summand: -summand[1])
    result = root.outputs[0]
    for value, _ in summands[: len(merged)]:
        editor.rename_changed(value)
    if len(summands) == 1:
        value, name = summands[0][0], result.name
        if result.is_graph_output() or value.shape is None:
            value.shape = result.shape
        if value.type is None:
            value.type = result.type
        result.replace_all_uses_with(value, replace_graph_outputs=True)
        value.name = name
        used: list[ir.Node] = []
    else:
        used = _chain(root, tree, summands, editor)
    kept = {_into(bucket) for bucket in merged} | set(used)
    absorbed_nodes = [leaf.node for bucket in merged for leaf in bucket if leaf.node is not None]
    editor.graph.remove([node for node in (*tree, *absorbed_nodes) if node not in kept], safe=True)


def _chain(root: ir.Node, tree: list[ir.Node], summands: list[tuple[ir.Value, int]], editor: Editor) -> list[ir.Node]:
    """Make nodes of the tree sum up the summands, the root last; return those that are used."""
    if any(node.op_type == "Sum" for node in tree):
        root.op_type = "Sum"
        root.resize_inputs(len(summands))
        for index, (value, _) in enumerate(summands):
            root.replace_input_with(index, value)
        return [root]
    used = [*reversed(tree[1 : len(summands) - 1]), root]
    total = summands[0][0]
    for node, (value, sign) in zip(used, summands[1:], strict=True):
        node.op_type = "Add" if sign > 0 else "Sub"
        node.replace_input_with(0, total)
        node.replace_input_with(1, value)
        total = node.outputs[0]
        if node is not root:
            editor.rename_changed(total)
            editor.graph.remove(node)
            editor.graph.insert_before(root, node)
    return used


def _output(bucket: Sequence[Leaf]) -> ir.Value:
    node = _into(bucket)
    assert node is not None  # the bucket was merged
    return node.outputs[0]


def _describe(bucket: Sequence[Leaf]) -> Merged:
    into = _into(bucket)
    assert into is not None  # the bucket was merged
    return Merged(into, tuple(leaf.node for leaf in bucket if leaf.node is not None and leaf.node is not into))

"""Parallel linear branches become one Conv: Add(Conv_a(x), Conv_b(x), x, affine(x), pool(x)), signs included.

A tree of Add, Sub and Sum is one sum of leaves. Leaves that are linear in the same value, each by one node or none, are
merged if their kernels fit into one that needs no more multiplications. What is left is summed by as many of the tree's
nodes as are needed; no node is added. Together with the fold, which takes scales into the merged Conv, this undoes
structural re-parameterisation wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from normfold.export.fold.batchnorm_parameters import read_batchnorm
from normfold.export.fold.edits import input_name, replacement
from normfold.export.fold.merge.kernel import Kernel, summed
from normfold.export.fold.merge.sums import Leaf, is_root, read_sum
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.constants import DerivedConstant
from normfold.export.graph.editor import Editor
from normfold.export.graph.nodes import is_batchnorm, opset_of


@dataclass(frozen=True, eq=False)
class Merged:
    """A merge: the node that was kept, and those that went into it."""

    into: ir.Node
    gone: tuple[ir.Node, ...]


def merge_branches(editor: Editor) -> list[Merged]:
    """Merge the parallel branches of a graph, in place.

    Args:
        editor: of the graph, whose shapes are inferred.

    Returns:
        What was merged; empty if nothing was.
    """
    done: list[Merged] = []
    for root in [node for node in editor.graph if is_root(node)]:
        tree, leaves = read_sum(root)
        if any(node.op_type == "Sum" for node in tree) and any(leaf.sign < 0 for leaf in leaves):
            continue  # a Sum has no place for a sign
        merged = [bucket for bucket in _buckets(leaves) if len(bucket) > 1 and _merge(bucket, editor)]
        if merged:
            _rebuild(root, tree, leaves, merged, editor)
            done += [_describe(bucket) for bucket in merged]
    return done


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
    shape = (kernel.outputs, kernel.inputs // kernel.group, *kernel.size)
    weight = replacement(node, 1, "weight", kernel.weight, shape)
    bias = DerivedConstant(input_name(node, 2, "bias"), (kernel.outputs,), weight.dtype, kernel.bias)
    if not _put(node, (weight, bias), editor):
        return False
    for key, numbers in (
        ("kernel_shape", kernel.size),
        ("dilations", kernel.dilations),
        ("pads", (*kernel.pads_begin, *kernel.pads_end)),
    ):
        node.attributes[key] = ir.AttrInt64s(key, list(numbers))
    node.attributes["group"] = ir.AttrInt64("group", kernel.group)
    node.attributes.pop("auto_pad", None)
    return True


def _write_batchnorm(node: ir.Node, kernel: Kernel, editor: Editor) -> bool:
    """Give a BatchNormalization the scale and shift that make its affine the kernel's."""
    own = read_batchnorm(node, opset_of(node))
    if isinstance(own, Rejection):
        return False
    gain = kernel.weight().reshape(-1)
    scale, shift = gain * np.sqrt(own.running_var + own.epsilon), kernel.bias() + gain * own.running_mean
    roles = (("scale", scale), ("shift", shift))
    constants = [
        replacement(node, index, role, partial(np.copy, array)) for index, (role, array) in enumerate(roles, start=1)
    ]
    return _put(node, constants, editor)


def _put(node: ir.Node, constants: Sequence[DerivedConstant], editor: Editor) -> bool:
    """Give a node constants in the place of its inputs from 1 on; False where one does not fit its dtype."""
    if not all(constant.fits for constant in constants):
        return False
    for index, constant in enumerate(constants, start=1):
        editor.put_constant(node, index, constant)
    return True


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
        editor.replace(result, value)
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

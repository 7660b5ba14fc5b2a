"""A linear operator on the spatial axes, as the kernel of a Conv; and the sum of several as one kernel.

A 1×1 kernel sits in the middle of a k×k one, an identity is a depthwise 1×1 kernel of ones, an AveragePool a uniform
depthwise kernel (structural re-parameterisation: Ding et al. 2021, arXiv:2101.03697).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.fold.cost import Cost, is_no_slower
from normfold.export.fold.layer import read_layer
from normfold.export.fold.rejection import Rejection


@dataclass(frozen=True, eq=False)
class Kernel:
    """The operation of a Conv: weight (C_out, C_in / group, *size), bias (C_out,), both in float64 when asked."""

    weight: Callable[[], Array]
    bias: Callable[[], Array]
    outputs: int
    inputs: int
    size: tuple[int, ...]
    group: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]

    @property
    def multiplications(self) -> int:
        """Multiplications for each position of the output."""
        return self.outputs * self.inputs // self.group * math.prod(self.size)

    def size_change(self, axis: int) -> int:
        """Return the size of the output minus that of the input along a spatial axis, for stride 1."""
        return self.pads_begin[axis] + self.pads_end[axis] - self.dilations[axis] * (self.size[axis] - 1)


def conv_kernel(node: ir.Node) -> Kernel | None:
    """Return the kernel of a Conv with constant weights and pads that do not depend on its input's size."""
    layer = read_layer(node)
    if isinstance(layer, Rejection) or pads_by_input(node):
        return None
    outputs, inputs_per_group, *size = layer.weight_shape
    group = node.attributes.get_int("group", 1)
    return Kernel(
        weight=layer.weight,
        bias=layer.bias or (lambda: np.zeros(outputs)),
        outputs=outputs,
        inputs=inputs_per_group * group,
        size=tuple(size),
        group=group,
        **_window(node, len(size)),
    )


def pool_kernel(node: ir.Node, channels: int) -> Kernel | None:
    """Return the kernel of an AveragePool all of whose windows count the same number of elements."""
    attributes = node.attributes
    size = tuple(attributes.get_ints("kernel_shape"))
    if pads_by_input(node) or attributes.get_int("ceil_mode", 0) != 0:
        return None
    if any(attributes.get_ints("pads", ())) and not attributes.get_int("count_include_pad", 0):
        return None
    return Kernel(
        weight=lambda: np.full((channels, 1, *size), 1 / math.prod(size)),
        bias=lambda: np.zeros(channels),
        outputs=channels,
        inputs=channels,
        size=size,
        group=channels,
        **_window(node, len(size)),
    )


def pads_by_input(node: ir.Node) -> bool:
    """Return whether the pads of a Conv or pool depend on the size of its input: auto_pad SAME_UPPER or SAME_LOWER."""
    return node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")


def _window(node: ir.Node, rank: int) -> dict[str, Any]:
    """Return how the window of a Conv or pool moves, as fields of a Kernel."""
    pads = node.attributes.get_ints("pads", (0,) * 2 * rank)
    return {
        "strides": tuple(node.attributes.get_ints("strides", (1,) * rank)),
        "dilations": tuple(node.attributes.get_ints("dilations", (1,) * rank)),
        "pads_begin": tuple(pads[:rank]),
        "pads_end": tuple(pads[rank:]),
    }


def affine_kernel(gain: Array, offset: Array, rank: int) -> Kernel:
    """Return the kernel of a channel affine on a value with `rank` spatial axes."""
    ones = (1,) * rank
    return Kernel(
        weight=lambda: gain.reshape(-1, 1, *ones),
        bias=lambda: offset,
        outputs=gain.size,
        inputs=gain.size,
        size=ones,
        group=gain.size,
        strides=ones,
        dilations=ones,
        pads_begin=(0,) * rank,
        pads_end=(0,) * rank,
    )


def summed(kernels: Sequence[Kernel], signs: Sequence[int]) -> Kernel | None:
    """Return one kernel that gives the sum of several applied to the same value.

    Args:
        kernels: of equal rank, with equal channels.
        signs: +1 or -1 for each.

    Returns:
        None if strides or dilations differ, the taps do not fall on one grid, the outputs differ in size, or the sum
        would need more multiplications than its parts.
    """
    first = kernels[0]
    rank = len(first.size)
    if len({(kernel.outputs, kernel.inputs, kernel.strides, len(kernel.size)) for kernel in kernels}) > 1:
        return None
    dilations, pads_begin, pads_end, size = [], [], [], []
    for axis in range(rank):
        steps = {kernel.dilations[axis] for kernel in kernels if kernel.size[axis] > 1} or {1}
        step = min(steps)
        begin = max(kernel.pads_begin[axis] for kernel in kernels)
        last = max((kernel.size[axis] - 1) * step - kernel.pads_begin[axis] for kernel in kernels)
        on_grid = (
            all((begin - kernel.pads_begin[axis]) % step == 0 for kernel in kernels) and (last + begin) % step == 0
        )
        if len(steps) > 1 or not on_grid or len({kernel.size_change(axis) for kernel in kernels}) > 1:
            return None
        dilations.append(step)
        pads_begin.append(begin)
        size.append((last + begin) // step + 1)
        pads_end.append(first.size_change(axis) + step * (size[axis] - 1) - begin)
    group = math.gcd(*(kernel.group for kernel in kernels))
    result = Kernel(
        weight=lambda: _sum_weights(kernels, signs, result),
        bias=lambda: np.sum([sign * kernel.bias() for sign, kernel in zip(signs, kernels, strict=True)], axis=0),
        outputs=first.outputs,
        inputs=first.inputs,
        size=tuple(size),
        group=group,
        strides=first.strides,
        dilations=tuple(dilations),
        pads_begin=tuple(pads_begin),
        pads_end=tuple(pads_end),
    )
    apart = Cost(len(kernels), sum(kernel.multiplications for kernel in kernels))
    return result if min(pads_end) >= 0 and is_no_slower(apart, Cost(1, result.multiplications)) else None


def _sum_weights(kernels: Sequence[Kernel], signs: Sequence[int], result: Kernel) -> Array:
    total = np.zeros((result.outputs, result.inputs // result.group, *result.size))
    for sign, kernel in zip(signs, kernels, strict=True):
        starts = [
            (begin - own) // step
            for begin, own, step in zip(result.pads_begin, kernel.pads_begin, result.dilations, strict=True)
        ]
        window = tuple(slice(start, start + length) for start, length in zip(starts, kernel.size, strict=True))
        rows, columns = kernel.outputs // kernel.group, kernel.inputs // kernel.group
        weight = sign * kernel.weight()
        for index in range(kernel.group):
            own = slice(index * rows, (index + 1) * rows)
            first = index * columns % (result.inputs // result.group)
            total[(own, slice(first, first + columns), *window)] += weight[own]
    return total

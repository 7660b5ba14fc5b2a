"""Cost of a rewrite when the network runs, and whether it pays. Three things are counted, for one row of the batch:

    nodes              a runtime dispatches each
    multiplications    of a linear operator, at one position of its output
    bytes              of values read and written, constants included

A rewrite pays if nodes become fewer, multiplications do not become more, and no more bytes move than the nodes that
went were worth. So an Add never stands in for a BatchNormalization (as many nodes), a dense Conv never for a depthwise
one beside a 1×1 (more multiplications), and a map over all positions for a bias only where the map is small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from normfold.export.graph.shapes import sizes_of

NODE_BYTES = 16 * 1024
"""Bytes that move in the time that a runtime needs to dispatch a node.

`make bench-node` measured 27 KiB; 16 KiB is the conservative choice, as a lower number lets fewer rewrites pay."""


@dataclass(frozen=True)
class Cost:
    """Nodes, multiplications and bytes, for one row."""

    nodes: int = 0
    multiplications: int = 0
    bytes: int = 0


def is_no_slower(before: Cost, after: Cost) -> bool:
    """Return whether the network runs no slower with what costs `after` in the place of what costs `before`."""
    gone = before.nodes - after.nodes
    return (
        gone > 0 and after.multiplications <= before.multiplications and after.bytes <= before.bytes + gone * NODE_BYTES
    )


def bytes_moved(node: ir.Node) -> int:
    """Return the bytes that a node reads and writes for one row; values of unknown size count nothing.

    The first axis counts as one row.
    """
    values = [*node.inputs, *node.outputs]
    return sum(bytes_of(value) for value in values if value is not None)


def bytes_of(value: ir.Value) -> int:
    """Return the bytes of a value for one row, or of a constant; 0 if a size or the dtype is not known."""
    if value.const_value is not None:
        return value.const_value.nbytes
    sizes, dtype = sizes_of(value), value.dtype
    if dtype is None or not sizes:
        return 0
    numbers = [size for size in sizes[1:] if isinstance(size, int)]
    return int(math.prod(numbers) * dtype.itemsize) if len(numbers) == len(sizes) - 1 else 0

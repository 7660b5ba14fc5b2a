"""Vectors of integers that say what an operator does: starts and ends, pads, numbers of copies."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from normfold.export.graph.constants import constant_tensor
from normfold.export.graph.shapes import sizes_of, static_size

Numbers = Sequence[int | None]
"""Elements of a vector of integers, None for each that is not constant."""


def integers(value: ir.Value | None) -> Numbers | None:
    """Return the elements of a vector, as far as they are constant: empty where it is left out.

    Exporters join constants and computed numbers by Concat, or take them from the shape of another value.

    Returns:
        The elements, or None if not even their number is known.
    """
    if value is None:
        return ()
    tensor = constant_tensor(value)
    if tensor is not None:
        return [int(number) for number in tensor.numpy().reshape(-1)]
    node, length = value.producer(), static_size(value, 0)
    if node is not None and node.domain == "" and node.op_type == "Concat":
        vectors = [integers(each) for each in node.inputs]
        known = [vector for vector in vectors if vector is not None]
        if len(known) == len(vectors):
            return [number for vector in known for number in vector]
    if node is not None and node.domain == "" and node.op_type == "Shape":
        sizes = sizes_of(node.inputs[0])
        if sizes is not None:
            part = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", len(sizes)))
            return [size if isinstance(size, int) else None for size in sizes[part]]
    return None if length is None else [None] * length

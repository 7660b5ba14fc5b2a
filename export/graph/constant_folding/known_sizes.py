"""Sizes that a graph reads from a shape: those that are known numbers, as constants.

torch's exporter writes the target of a Reshape as Gather nodes that pick single sizes from a Shape; onnxscript's folder
computes a Shape all of whose sizes are known, and slices of it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from normfold.export.graph.constants import constant_tensor, replace_by_constant
from normfold.export.graph.nodes import all_graphs
from normfold.export.graph.shapes import sizes_of


def replace_known_sizes(model: ir.Model) -> bool:
    """Replace each Gather that picks known sizes from a Shape by a constant, in place.

    Returns:
        Whether there were any.
    """
    replaced = False
    for graph in all_graphs(model.graph):
        for node in [node for node in graph if node.op_type == "Gather" and node.domain == ""]:
            picked = _picked_sizes(node)
            if picked is None or node.outputs[0].is_graph_output():
                continue
            replace_by_constant(graph, node.outputs[0], ir.Tensor(picked, name=node.outputs[0].name))
            graph.remove(node, safe=True)
            replaced = True
    return replaced


def _picked_sizes(node: ir.Node) -> np.ndarray | None:
    """Return the sizes that a Gather picks, in the shape of its indices; None where one is not a known number."""
    source, indices = node.inputs[0], constant_tensor(node.inputs[1])
    shape = None if source is None else source.producer()
    if shape is None or shape.op_type != "Shape" or shape.domain != "" or indices is None:
        return None
    sizes = sizes_of(shape.inputs[0])
    if sizes is None:
        return None
    sizes = sizes[shape.attributes.get_int("start", 0) : shape.attributes.get_int("end", len(sizes))]
    places = indices.numpy()
    if any(not -len(sizes) <= place < len(sizes) for place in places.flat):
        return None
    picked = [sizes[place] for place in places.flat]
    if not all(isinstance(size, int) for size in picked):
        return None
    return np.array(picked, np.int64).reshape(places.shape)

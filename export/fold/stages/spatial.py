"""spatial=0, until opset 8: statistics for every position. Files say it where the statistics are those of channels."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from normfold.export.fold.state import FoldState
from normfold.export.graph.constants import constant_shape, constant_tensor
from normfold.export.graph.inference import infer_shapes
from normfold.export.graph.nodes import all_nodes, is_batchnorm, opset_of
from normfold.export.graph.shapes import rank_of, static_size


def correct_spatial(state: FoldState) -> bool:
    """Make BatchNormalization nodes whose parameters are vectors of one number for each channel say so.

    On a value of rank 2 every channel has one position, and nothing changes. On others such a file is wrong, and ONNX
    Runtime does not run it: the report warns.

    Requires: shapes inferred, constants computed.
    Ensures: a node that still has spatial=0 has other parameters, or an input of unknown shape.
    """
    nodes = {node: label for label, node in state.batchnorms.items() if node.graph is not None}
    corrected = corrected_spatial(nodes)
    state.report.warnings += [
        f"BatchNormalization {nodes[node]!r} has spatial=0 (statistics for every position) and one number for each "
        "channel, which ONNX Runtime does not run: it was taken as spatial=1."
        for node in corrected
        if rank_of(node.inputs[0]) != 2
    ]
    return bool(corrected)


def corrected_spatial(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """Remove a wrong spatial=0 from BatchNormalization nodes, in place; return the nodes that had it."""
    corrected = []
    for node in nodes:
        if _says_not_spatial(node) and _is_by_channel(node):
            node.attributes.pop("spatial")
            corrected.append(node)
    return corrected


def runs_on_reference_alone(model: ir.Model) -> bool:
    """Return whether a model holds a node that `correct_spatial` would correct and ONNX Runtime does not run."""
    nodes = [node for node in all_nodes(model.graph) if _says_not_spatial(node)]
    if not nodes:
        return False
    infer_shapes(model)
    return any(_is_by_channel(node) and rank_of(node.inputs[0]) != 2 for node in nodes)


def _says_not_spatial(node: ir.Node) -> bool:
    return is_batchnorm(node) and opset_of(node) < 9 and not node.attributes.get_int("spatial", 1)


def _is_by_channel(node: ir.Node) -> bool:
    """Return whether each parameter is a vector of one number for each channel of the input."""
    channels, rank = static_size(node.inputs[0], 1), rank_of(node.inputs[0])
    if any(constant_tensor(value) is None for value in node.inputs[1:]):
        return False
    shapes = {constant_shape(value) for value in node.inputs[1:]}
    (first, *others) = shapes
    return rank is not None and rank >= 2 and not others and len(first) == 1 and channels in (None, first[0])

"""Simplifications of what exporters write: constants computed before a fold, equal nodes joined after it.

torch's exporter, its optimiser off, writes a missing bias as Expand and CastLike nodes, and the same shape arithmetic
before every Reshape. onnxscript's folder, which that optimiser is made of, finds what follows from shapes, and takes
the branch of an If whose condition is known; what follows from constants is computed in `expressions`. Equal
nodes are joined last: two layers that read one value must each be free to change it.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from onnxscript.optimizer import fold_constants_ir

from normfold.export.graph.constant_folding.expressions import compute_constant_expressions
from normfold.export.graph.constant_folding.known_sizes import replace_known_sizes
from normfold.export.graph.constants import constant_tensor, replace_by_constant
from normfold.export.graph.inference import infer_shapes
from normfold.export.graph.nodes import all_graphs, all_nodes, is_batchnorm, opset_of

_RANDOM = frozenset({"Bernoulli", "Dropout", "Multinomial"})
"""Some operators that differ from run to run; RandomNormal and its like are known to the pass itself."""

_OF_SEQUENCES = frozenset({"ConcatFromSequence", "SequenceConstruct", "SplitToSequence"})

_MAX_ROUNDS = 100
"""Rounds of constants and shapes, each of which needs the one before; networks in use need fewer than ten."""

logging.getLogger("onnxscript").setLevel(logging.ERROR)


def compute_constants(model: ir.Model) -> list[ir.Node] | None:
    """Replace constant expressions by initializers, in place, and infer shapes with them, until nothing more is found.

    Constant nodes become initializers. Shapes must have been inferred once.

    Returns:
        The nodes that were computed, and so are gone; None where the model is as it was.
    """
    computed: list[ir.Node] = []
    changed = False
    for _ in range(_MAX_ROUNDS):
        lifted = lift_constants(model)
        known = replace_known_sizes(model)
        gone = compute_constant_expressions(model)
        if not (_simplify_by_shapes(model) or lifted or known or gone):
            break
        computed += gone
        changed = True
        infer_shapes(model)
    return computed if changed else None


def join_equal_nodes(model: ir.Model) -> bool:
    """Make one node of those that compute the same of the same values, in place; not where nodes may be random.

    Returns:
        Whether any were joined.
    """
    if any(node.domain or node.op_type in _RANDOM for node in all_nodes(model.graph)):
        return False
    before = set(all_nodes(model.graph))
    joined = bool(common_passes.CommonSubexpressionEliminationPass()(model).modified)
    for node in set(all_nodes(model.graph)) - before:  # an output keeps its name by an Identity, numbered as made
        node.name = f"{node.outputs[0].name}.identity"
    return joined


def join_equal_batchnorms(model: ir.Model) -> dict[ir.Node, ir.Node]:
    """Make one of BatchNormalization nodes that compute the same of one value, in place, outputs of the graph apart.

    Returns:
        For each node that is gone the one that gives its value now.
    """
    joined: dict[ir.Node, ir.Node] = {}
    for graph in all_graphs(model.graph):
        seen: dict[Hashable, ir.Node] = {}
        for node in [node for node in graph if is_batchnorm(node)]:
            tensors = [tensor for value in node.inputs[1:] if (tensor := constant_tensor(value)) is not None]
            if len(node.outputs) > 1 or len(tensors) != len(node.inputs) - 1:
                continue
            contents = tuple((tensor.dtype, tensor.numpy().tobytes()) for tensor in tensors)
            attributes = tuple(sorted((name, str(each.value)) for name, each in node.attributes.items()))
            first = seen.setdefault((node.inputs[0], contents, attributes), node)
            if first is not node and not node.outputs[0].is_graph_output():
                node.outputs[0].replace_all_uses_with(first.outputs[0])
                graph.remove(node, safe=True)
                joined[node] = first
    return joined


def lift_constants(model: ir.Model) -> bool:
    """Make initializers of Constant nodes that hold tensors or numbers, in place; one that is an output stays.

    Returns:
        Whether there were any.
    """
    nodes = [node for node in all_nodes(model.graph) if node.op_type == "Constant" and node.domain == ""]
    lifted = False
    for node in nodes:
        (value,) = node.outputs
        tensor = constant_tensor(value)
        if tensor is None or value.is_graph_output() or node.graph is None:
            continue
        graph = node.graph
        replace_by_constant(graph, value, tensor)
        graph.remove(node, safe=True)
        lifted = True
    return lifted


def _simplify_by_shapes(model: ir.Model) -> bool:
    """Replace what follows from the shapes of values; nothing is evaluated."""
    if any(_is_rewritten_wrongly(node) for node in all_nodes(model.graph)):
        return False
    try:
        result = fold_constants_ir(model, should_fold=lambda _: False)
    except RuntimeError:  # what it cannot simplify stays: it replaces one node after the other
        return False
    return bool(result.modified)


def _is_rewritten_wrongly(node: ir.Node) -> bool:
    """Return whether onnxscript's folder would write something else than a node computes, or more nodes.

    The mask of a Dropout becomes several nodes; a Cast in the place of a CastLike saturates as Cast does by default;
    operators of sequences become Split and Unsqueeze as they are from opset 13 on.
    """
    if node.op_type == "Dropout":
        return any(bool(value.uses()) or value.is_graph_output() for value in node.outputs[1:])
    if node.op_type == "CastLike":
        return not {"saturate", "round_mode"}.isdisjoint(node.attributes)
    return node.op_type in _OF_SEQUENCES and opset_of(node) < 13

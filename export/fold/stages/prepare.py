"""Stages that prepare a model: functions inlined, shapes inferred, constants computed, BatchNormalization read."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir.passes.common as common_passes

from normfold.export.errors import TrainingModeError
from normfold.export.fold.batchnorm_parameters import BatchNorm, is_canonical, is_training, read_batchnorm
from normfold.export.fold.report import Outcome
from normfold.export.fold.state import FoldedNode, FoldState
from normfold.export.graph import bodies, inference
from normfold.export.graph.constant_folding import simplify
from normfold.export.graph.nodes import all_nodes, is_batchnorm, opset_of, unique_labels
from normfold.export.onnx_io.model_file import OPSET_IN_FILE

MAX_NAMED = 3
"""Nodes that a warning names."""


def inline_functions(state: FoldState) -> bool:
    """Inline functions, list every BatchNormalization of the source, and say if its opset was converted.

    Requires: a model from `load_model`.
    Ensures: no node calls a function of the model; `state.batchnorms` is complete.
    """
    result = common_passes.InlinePass()(state.model)
    if (opset := state.model.meta.get(OPSET_IN_FILE)) is not None:
        now = state.model.opset_imports[""]
        state.report.warnings.append(f"The file has opset {opset}: onnx's version converter converted it to {now}.")
    nodes = [node for node in all_nodes(state.model.graph) if is_batchnorm(node)]
    state.batchnorms.update(zip(unique_labels(nodes), nodes, strict=True))
    return bool(result.modified)


def name_body_values(state: FoldState) -> bool:
    """Give each value inside the body of an If, Loop or Scan a name of its own.

    Requires: no calls of functions.
    Ensures: no two values have one name; bodies have the model's opsets.
    """
    return bodies.name_bodies(state.model)


def lift_constants(state: FoldState) -> bool:
    """Make initializers of Constant nodes.

    Requires: no name of a value in two bodies.
    Ensures: shape inference finds all that constants say: of Constant nodes it reads those alone that hold tensors.
    """
    return simplify.lift_constants(state.model)


def infer_shapes(state: FoldState) -> bool:
    """Infer the shapes of all values from those of the inputs.

    Requires: no calls of functions, no Constant nodes.
    Ensures: values have the shapes that follow from the inputs, whatever the file says of values in between.
    """
    return inference.infer_shapes(state.model, afresh=True)


def compute_constants(state: FoldState) -> bool:
    """Compute what is constant, and then shapes that are known with it, until nothing more is found.

    Requires: shapes inferred.
    Ensures: constant expressions are initializers, a BatchNormalization of a constant among them, whose outcome is
        then in `state.folded`; every other BatchNormalization is still a node.
    """
    computed = simplify.compute_constants(state.model)
    if computed is None:
        return False
    batchnorms = set(state.batchnorms.values())
    state.folded.update({node: FoldedNode(Outcome.COMPUTED, (), ()) for node in computed if node in batchnorms})
    return True


def record_batchnorm_parameters(state: FoldState) -> bool:
    """Read the parameters of every BatchNormalization into the report, and warn of those that training did not finish.

    Requires: constants computed.
    Ensures: `state.report.parameters` holds those that can be read and are of training; the model is as it was.

    Raises:
        TrainingModeError: every BatchNormalization is in training mode.
    """
    left = state.batchnorms_left()
    training = [label for label, node in left.items() if is_training(node, opset_of(node))]
    if training and len(training) == len(left):
        raise TrainingModeError(training[0])
    if training:
        state.report.warnings.append(_training_warning(training, len(left)))
    for label, node in left.items():
        read = read_batchnorm(node, opset_of(node))
        if isinstance(read, BatchNorm) and not is_canonical(node):
            state.report.parameters[label] = read
            if read.statistics_never_set:
                state.report.warnings.append(
                    f"BatchNormalization {label!r} has mean 0 and variance 1 in every channel: "
                    "its statistics were probably never set by training."
                )
    return False


def _training_warning(training: Sequence[str], total: int) -> str:
    """Return the warning of BatchNormalization nodes that normalise by the batch, beside others that do not."""
    named = ", ".join(map(repr, training[:MAX_NAMED])) + (" and others" if len(training) > MAX_NAMED else "")
    return (
        f"{len(training)} of {total} BatchNormalization nodes are in training mode and were kept: {named}. They "
        "normalise by the batch, so the outputs for one row depend on the rows beside it; export the network in "
        "evaluation mode."
    )


def remove_unused_nodes(state: FoldState) -> bool:
    """Remove nodes whose outputs are read nowhere.

    Requires: nothing.
    Ensures: every node leads to an output of the graph.
    """
    return bodies.remove_unused_nodes(state.model)

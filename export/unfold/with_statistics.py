"""BatchNormalization put back where a bundle's statistics say that its output is.

The value that holds what a BatchNormalization gave out is its affine of another value. That one comes back when the
inverse of the affine is folded into the layers before it, by the planner of the fold:

    v = gain * u + offset        u = v / gain - offset / gain
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from normfold.contract.manifest import MODEL_NAME
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.arrays import Array
from normfold.export.bundle.statistics import StoredBatchNorm
from normfold.export.errors import UnfoldError
from normfold.export.fold.affine import Affine
from normfold.export.fold.operators.table import OPERATORS
from normfold.export.fold.plan import Plan, Planner
from normfold.export.fold.rejection import Rejection
from normfold.export.fold.report import Outcome
from normfold.export.graph.constants import constant_dtype, float64_reader, is_constant
from normfold.export.graph.editor import Editor
from normfold.export.graph.inference import infer_shapes
from normfold.export.graph.nodes import node_label, opset_of
from normfold.export.graph.shapes import rank_of, static_size
from normfold.export.unfold.insert import drop_bias, insert_batchnorm, remove_batchnorm
from normfold.export.unfold.parameters import Parameters, parameter_dtype, precision
from normfold.export.unfold.report import UnfoldedLayer, UnfoldReport

_WITH_BIAS = frozenset({"Conv", "ConvTranspose", "Gemm"})


def unfold_with_statistics(
    model: ir.Model, stored: list[StoredBatchNorm], progress: ProgressCallback = ignore_progress
) -> UnfoldReport:
    """Put the BatchNormalization nodes of a folded model back, in place, each with its own parameters.

    Args:
        model: the folded model of a bundle.
        stored: its BatchNormalization nodes, as before the fold.
        progress: called with each step as it begins.

    Raises:
        UnfoldError: none can be put back.
    """
    infer_shapes(model, afresh=True)
    editor, layers, left = Editor(model.graph), [], []
    for number, batchnorm in enumerate(stored, start=1):
        progress(f"unfolding {number} of {len(stored)}: {batchnorm.node}")
        if batchnorm.outcome in (Outcome.KEPT, Outcome.REMOVED):
            continue
        behind = _put_back(editor, batchnorm)
        if isinstance(behind, UnfoldedLayer):
            layers.append(behind)
        else:
            left.append(f"BatchNormalization {batchnorm.node!r} cannot be put back: {behind}")
    if not layers:
        such_as = f" {left[0]} Its {MODEL_NAME} can be unfolded with `samples`." if left else ""
        raise UnfoldError(f"The bundle has no BatchNormalization that can be put back.{such_as}")
    common_passes.RemoveUnusedNodesPass()(model)
    return UnfoldReport(tuple(layers), tuple(left))


def _put_back(editor: Editor, batchnorm: StoredBatchNorm) -> UnfoldedLayer | str:
    """Put one back and divide it out of the layers before it, or return why that cannot be."""
    graph = editor.graph
    value = next((one for node in graph for one in node.outputs if one.name == batchnorm.output_value), None)
    if batchnorm.output_value is None or value is None:
        return f"it was {batchnorm.outcome}, and no value of the folded network is its output."
    rank, channels = rank_of(value), batchnorm.scale.size
    dtype = parameter_dtype(value, graph.opset_imports.get("", 0))
    if rank is None or rank < 2 or static_size(value, 1) not in (None, channels) or dtype is None:
        return f"the shape or dtype of {value.name!r}, its output, is not known, or is not that of its channels."
    parameters = _rounded(batchnorm, dtype)
    gain = parameters.scale / np.sqrt(parameters.running_var + parameters.epsilon)
    inverse = 1 / np.where(gain == 0, 1, gain)
    offset = -(parameters.shift - gain * parameters.running_mean) * inverse
    producer = value.producer()
    node = insert_batchnorm(editor, value, batchnorm.node, parameters, dtype)
    position = {each: place for place, each in enumerate(graph)}
    plan = Planner(OPERATORS, position).plan_backward(node, Affine.per_channel(inverse, offset, rank))
    if isinstance(plan, Plan):
        plan = plan.overflow() or plan
    if isinstance(plan, Rejection):
        remove_batchnorm(editor, node)
        return plan.sentence
    _apply(editor, plan, value)
    if producer is not None and plan.path == [producer]:
        _drop_rounded_bias(editor, producer, offset)
    return UnfoldedLayer(node_label(node), node_label(producer) if producer is not None else "", channels)


def _rounded(batchnorm: StoredBatchNorm, dtype: ir.DataType) -> Parameters:
    """Return the parameters as the node's dtype holds them."""
    scale, shift, mean, var = (
        array.astype(dtype.numpy()).astype(np.float64)
        for array in (batchnorm.scale, batchnorm.shift, batchnorm.running_mean, batchnorm.running_var)
    )
    return Parameters(scale, shift, mean, var, batchnorm.epsilon)


def _apply(editor: Editor, plan: Plan, source: ir.Value) -> None:
    """Carry a plan out; values between the layers and the BatchNormalization change, and get other names."""
    for edit in plan.edits:
        edit.apply(editor)
    for value in plan.required:
        if value is not source:
            value.name = editor.unused_name(f"{value.name}.unfolded")


def _drop_rounded_bias(editor: Editor, layer: ir.Node, offset: Array) -> None:
    """Take a bias away that is what rounding left of the bias of a layer which had none.

    The folded bias was that layer's offset, rounded: it is off by half a unit in the last place at most.
    """
    if layer.op_type not in _WITH_BIAS or len(layer.inputs) < 3 or not is_constant(layer.inputs[2]):
        return
    if layer.op_type == "Gemm" and (layer.attributes.get_float("beta", 1.0) != 1 or opset_of(layer) < 11):
        return
    unit = precision(constant_dtype(layer.inputs[2]))
    if (np.abs(float64_reader(layer.inputs[2])()) <= unit * np.abs(offset)).all():
        drop_bias(editor, layer)

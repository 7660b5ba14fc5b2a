"""The fold: every BatchNormalization that a neighbour can absorb is removed, every other is kept, with the reason.

requires   an inference graph of opset 7 or newer
ensures    inputs, outputs, and every value that keeps its name are what they were, within rounding; no node is
added; the report has one entry for each BatchNormalization of the source
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.fold.report import BatchNormOutcome, FoldReport
from normfold.export.fold.stages.finish import check
from normfold.export.fold.stages.fold_and_join import fold_and_join
from normfold.export.fold.stages.pixels import take_pixels
from normfold.export.fold.stages.prepare import (
    compute_constants,
    infer_shapes,
    inline_functions,
    lift_constants,
    name_body_values,
    record_batchnorm_parameters,
    remove_unused_nodes,
)
from normfold.export.fold.stages.size import measure_result, measure_source
from normfold.export.fold.stages.spatial import correct_spatial
from normfold.export.fold.state import FoldOptions, FoldState, Stage
from normfold.export.graph.module_names import module_name, nodes_by_label
from normfold.export.graph.nodes import all_nodes, is_batchnorm
from normfold.export.graph.pixels import FromPixels

STAGES: tuple[Stage, ...] = (
    inline_functions,
    name_body_values,
    lift_constants,
    infer_shapes,
    measure_source,
    compute_constants,
    correct_spatial,
    record_batchnorm_parameters,
    remove_unused_nodes,
    take_pixels,
    fold_and_join,
    check,
    measure_result,
)


def fold(
    model: ir.Model,
    progress: ProgressCallback = ignore_progress,
    merging: bool = True,
    pixels: FromPixels | None = None,
) -> FoldReport:
    """Fold the BatchNormalization nodes of a model, in place.

    Weights are computed when the model is written (see `export.graph.constants`); this reads vectors only.

    Args:
        model: the unfolded model, from `export.onnx_io.model_file.load_model`.
        progress: called with each stage as it begins.
        merging: make one layer of parallel linear branches, which absorbs what stands on them.
        pixels: make the input 8-bit pixels, and fold their standardisation too.

    Returns:
        The outcome for each BatchNormalization, in graph order.

    Raises:
        TrainingModeError: every BatchNormalization is in training mode.
        PixelError: the model cannot take pixels.
        FoldError: the result is not a valid graph, which would be a fault of the fold.
    """
    state = FoldState(model, FoldOptions(merging, pixels), progress)
    before = nodes_by_label(all_nodes(model.graph))
    for stage in STAGES:
        progress(f"folding: {stage.__name__.replace('_', ' ')}")
        stage(state)
    nodes = nodes_by_label((*all_nodes(model.graph), *state.batchnorms.values())) | before
    state.report.entries = [_with_modules(entry, state.batchnorms[entry.node], nodes) for entry in _entries(state)]
    came = set(state.batchnorms.values())
    state.report.batchnorm_made = sum(is_batchnorm(node) and node not in came for node in all_nodes(model.graph))
    return state.report


def _entries(state: FoldState) -> list[BatchNormOutcome]:
    there = {value for node in state.model.graph for value in node.outputs}  # a caller sees no value inside a body
    names = {node: value.name for value, node in state.output_values.items() if value.name and value in there}
    left = state.batchnorms_left()
    return [_entry(state, label, node, label in left, names.get(node)) for label, node in state.batchnorms.items()]


def _with_modules(entry: BatchNormOutcome, node: ir.Node, nodes: Mapping[str, ir.Node]) -> BatchNormOutcome:
    into = [nodes.get(label) for label in entry.into]
    modules = tuple(None if each is None else module_name(each) for each in into)
    return replace(entry, module=module_name(node), into_modules=modules)


def _entry(state: FoldState, label: str, node: ir.Node, is_left: bool, output_value: str | None) -> BatchNormOutcome:
    """Return the outcome of one BatchNormalization."""
    if (folded := state.folded.get(node)) is not None:
        return BatchNormOutcome(label, folded.outcome, folded.into, folded.path, output_value=output_value)
    if not is_left:
        return BatchNormOutcome.removed(label)
    return BatchNormOutcome.kept(label, state.rejections[node], output_value)

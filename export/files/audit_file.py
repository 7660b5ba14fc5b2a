"""Audit the BatchNormalization nodes of an ONNX file: their mode and their parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from normfold.contract.audit.batchnorm_checks import check_layer
from normfold.contract.audit.findings import Audit, BatchNormLayer, Finding, Severity
from normfold.export.fold.batchnorm_parameters import BatchNorm, is_canonical, is_training, read_parameters
from normfold.export.fold.rejection import Rejection
from normfold.export.fold.stages.spatial import corrected_spatial
from normfold.export.graph.bodies import name_bodies
from normfold.export.graph.constant_folding.simplify import compute_constants
from normfold.export.graph.constants import constant_tensor
from normfold.export.graph.inference import infer_shapes
from normfold.export.graph.nodes import all_nodes, is_batchnorm, node_label, opset_of, unique_labels
from normfold.export.onnx_io.model_file import load_model

NOTE = "The statistics were not compared with data: an ONNX file contains none."


def audit_onnx(path: Path) -> Audit:
    """Audit a model; the file stays as it is.

    Raises:
        ModelFileError: missing, unreadable, not ONNX, or using what is not supported.
    """
    model = load_model(path)
    common_passes.InlinePass()(model)
    name_bodies(model)
    nodes = [node for node in all_nodes(model.graph) if is_batchnorm(node)]
    findings = list(_dropouts(model))
    infer_shapes(model, afresh=True)
    computed = compute_constants(model) or []  # parameters that the exporter left to be computed
    corrected_spatial(node for node in nodes if node not in computed)
    layers = []
    for node, label in zip(nodes, unique_labels(nodes), strict=True):
        if node in computed:  # it normalises a weight, not the values of a network
            continue
        if is_training(node, opset_of(node)):
            findings.append(_training(label))
        read = read_parameters(node, opset_of(node))
        if isinstance(read, Rejection):
            findings.append(_unreadable(label, read))
        else:
            layers.append(_layer(label, read))
            of_numbers = check_layer(layers[-1])
            findings += _not_finite(of_numbers) if is_canonical(node) else of_numbers
    return Audit(tuple(layers), tuple(findings), {}, (NOTE,))


def _not_finite(findings: Iterable[Finding]) -> list[Finding]:
    """Return what a BatchNormalization that a fold made of a Mul and an Add can lack: it never had statistics."""
    return [finding for finding in findings if finding.code == "not-finite"]


def _layer(label: str, read: BatchNorm) -> BatchNormLayer:
    return BatchNormLayer(label, read.scale, read.shift, read.running_mean, read.running_var, read.epsilon)


def _training(label: str) -> Finding:
    return Finding(
        Severity.ERROR,
        "train-mode",
        label,
        "training_mode=1: it normalises by the batch",
        "Export the network again in evaluation mode, or run `normfold repair` on the file.",
    )


def _unreadable(label: str, rejection: Rejection) -> Finding:
    return Finding(
        Severity.INFO,
        "not-readable",
        label,
        rejection.sentence,
        "Export the network again with its parameters as initializers.",
    )


def _dropouts(model: ir.Model) -> Iterator[Finding]:
    """Find Dropout nodes that drop: from opset 12 an input says so, before that nothing in the file does."""
    for node in all_nodes(model.graph):
        if node.op_type != "Dropout" or node.domain not in ("", "ai.onnx") or len(node.inputs) < 3:
            continue
        tensor = constant_tensor(node.inputs[2])
        if tensor is not None and np.asarray(tensor.numpy()).any():
            yield Finding(
                Severity.ERROR,
                "train-mode",
                node_label(node),
                "training_mode is true: this Dropout sets values to 0 by chance",
                "Export the network again in evaluation mode.",
            )

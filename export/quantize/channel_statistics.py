"""What a folded BatchNormalization says of the values of a network, without any data.

The value that it gave out has in each channel

    mean = shift        std = |scale| · sqrt(running_var / (running_var + epsilon))

and the value that it took had mean running_mean and variance running_var.

Source: Nagel et al. 2019, arXiv:1906.04721, section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array
from normfold.export.bundle.statistics import StoredBatchNorm
from normfold.export.fold.batchnorm_parameters import BatchNorm, is_canonical, read_batchnorm
from normfold.export.fold.report import FoldReport
from normfold.export.graph.nodes import is_batchnorm, opset_of, unique_labels


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """Mean and standard deviation of each channel of one value, (C,), float64; channels are on axis 1."""

    mean: Array
    std: Array
    folded_value: str | None = None
    """The value of the folded graph that holds what the BatchNormalization gave out; None where no value does."""
    input_mean: Array | None = None
    """Of the value that the BatchNormalization took, (C,); None where it is not known."""
    input_std: Array | None = None


def of_bundle(stored: Sequence[StoredBatchNorm]) -> dict[str, ChannelStatistics]:
    """Return the statistics of a bundle's BatchNormalization nodes, from `statistics.safetensors`, by node.

    A node whose statistics are not finite is left out.
    """
    return _finite({each.node: _statistics(each, each.output_value) for each in stored})


def of_report(report: FoldReport) -> dict[str, ChannelStatistics]:
    """Return the statistics of the BatchNormalization nodes that a fold saw, by node, as `of_bundle` does."""
    found = {}
    for entry in report.entries:
        if (read := report.parameters.get(entry.node)) is not None:
            found[entry.node] = _statistics(read, entry.output_value)
    return _finite(found)


def batchnorms(unfolded: ir.Model) -> dict[str, ir.Node]:
    """Return the BatchNormalization nodes of a network, outside of bodies, by the label that a fold's report has.

    Args:
        unfolded: the network, its functions inlined.
    """
    nodes = [node for node in unfolded.graph.all_nodes() if is_batchnorm(node)]
    labelled = zip(unique_labels(nodes), nodes, strict=True)
    return {label: node for label, node in labelled if node.graph is unfolded.graph}


def of_graph(unfolded: ir.Model) -> dict[str, ChannelStatistics]:
    """Return the statistics of a network's own BatchNormalization nodes, by label, without values of a folded graph.

    A node that was made of a Mul and an Add, whose parameters cannot be read, or whose statistics are not finite, is
    left out.

    Args:
        unfolded: the network, its functions inlined.
    """
    found = {}
    for label, node in batchnorms(unfolded).items():
        read = None if is_canonical(node) else read_batchnorm(node, opset_of(node))
        if isinstance(read, BatchNorm):
            found[label] = _statistics(read, None)
    return _finite(found)


def _statistics(norm: BatchNorm | StoredBatchNorm, folded_value: str | None) -> ChannelStatistics:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        std = np.abs(norm.scale) * np.sqrt(norm.running_var / (norm.running_var + norm.epsilon))
        input_std = np.sqrt(norm.running_var)
    return ChannelStatistics(norm.shift, std, folded_value, norm.running_mean, input_std)


def _finite(found: dict[str, ChannelStatistics]) -> dict[str, ChannelStatistics]:
    return {node: each for node, each in found.items() if np.isfinite(each.mean).all() and np.isfinite(each.std).all()}

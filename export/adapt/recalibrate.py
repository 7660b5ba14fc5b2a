"""Recalibrate the statistics of every BatchNormalization from samples: layer after layer, each on what the corrected
layers before it give.

    mean = (N · trained + n · sampled) / (N + n)        likewise the variance, biased

n is the number of samples, N the prior: for how many samples the statistics that training left count. Source:
Schneider et al. 2020, arXiv:2006.16971.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from normfold.contract.atomic_write import os_errors_as_write_errors
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.adapt.activations import Activations, chunk_rows
from normfold.export.adapt.liveness import alive_before
from normfold.export.adapt.sample_stability import SampleStability, measure_stability
from normfold.export.adapt.samples import Samples
from normfold.export.arrays import Array
from normfold.export.bundle.statistics import Statistics
from normfold.export.errors import NotAdaptableError, SampleError, SampleStatisticsError, UnstableSamplesError
from normfold.export.fold.batchnorm_parameters import PARAMETERS, BatchNorm, read_batchnorm
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.constants import DerivedConstant, constant_dtype
from normfold.export.graph.editor import Editor
from normfold.export.graph.nodes import is_batchnorm, opset_of, unique_labels
from normfold.export.graph.shapes import infer_shapes


@dataclass(frozen=True, eq=False)
class RecalibratedLayer:
    """One BatchNormalization before and after, and how stable the samples are at it."""

    node: str
    trained: Statistics
    """As training left them: what was blended with."""
    old: Statistics
    new: Statistics
    epsilon: float
    stability: SampleStability

    @property
    def moved(self) -> Array:
        """How far the mean moved, for each channel, in standard deviations as they were."""
        moved: Array = np.abs(self.new.mean - self.old.mean) / np.sqrt(self.old.var + self.epsilon)
        return moved

    @property
    def variance_ratio(self) -> Array:
        """The new variance over the old, for each channel, epsilon added to both."""
        ratio: Array = (self.new.var + self.epsilon) / (self.old.var + self.epsilon)
        return ratio


@dataclass(frozen=True)
class Recalibration:
    """Every BatchNormalization in graph order, and the number of samples."""

    layers: tuple[RecalibratedLayer, ...]
    samples: int

    @property
    def trained(self) -> dict[str, Statistics]:
        """By node, the statistics that training left."""
        return {layer.node: layer.trained for layer in self.layers}

    def require(self) -> None:
        """Raise if the samples' first half is not like their second.

        Raises:
            UnstableSamplesError: naming the layer whose halves differ with the largest z-score.
        """
        found = [
            (gap.z, gap.gap, layer.node, what)
            for layer in self.layers
            for gap, what in ((layer.stability.means, "means"), (layer.stability.variances, "variances"))
            if gap.is_significant
        ]
        if found:
            z, gap, node, what = max(found)
            unit = "standard deviations" if what == "means" else "of themselves"
            raise UnstableSamplesError(node, f"{what} lie {gap:.2g} {unit} apart", gap, z)


def recalibrate(
    model: ir.Model,
    samples: Samples,
    prior: float,
    trained: Mapping[str, Statistics] | None = None,
    batchable: bool = True,
    progress: ProgressCallback = ignore_progress,
) -> Recalibration:
    """Recalibrate the statistics of a model, in place.

    Args:
        model: the unfolded model, from `export.onnx_io.model_file.load_model`; its functions are inlined, and
            nodes whose outputs are not read are removed.
        samples: what the network takes.
        prior: for how many samples the statistics that training left count.
        trained: those statistics, by node; None where the model still holds them.
        batchable: rows are independent; others run one by one, as a server runs them.
        progress: called with each step as it begins.

    Raises:
        NotAdaptableError: there is no BatchNormalization, one whose statistics cannot be replaced or sampled,
            or the model cannot be run on the samples.
        TrainingModeError: a BatchNormalization is in training mode.
        SampleError: the samples cannot be cut into batches of the size that the model fixes.
        SampleStatisticsError: what the samples give is not finite.
        WriteError: the disk has no space for the activations.
    """
    common_passes.InlinePass()(model)
    common_passes.RemoveUnusedNodesPass()(model)
    infer_shapes(model, afresh=True)
    batchnorms = _read_all(model)
    rows = _rows(model, samples, batchable)
    editor = Editor(model.graph)
    layers = []
    temporary = Path(tempfile.gettempdir())
    with os_errors_as_write_errors(temporary), tempfile.TemporaryDirectory(prefix="normfold-") as folder:
        activations = Activations(samples, rows, Path(folder))
        for number, (label, batchnorm) in enumerate(batchnorms.items(), start=1):
            progress(f"recalibrating {number} of {len(batchnorms)}: {label}")
            activations.advance(model, alive_before(batchnorm.node, [each.node for each in batchnorms.values()]))
            with np.errstate(over="ignore", invalid="ignore"):  # _put raises for what is not finite
                means, variances = _sample(activations, batchnorm)
                sampled = Statistics(means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0))
            old = Statistics(batchnorm.running_mean, batchnorm.running_var)
            anchor = old if trained is None else trained[label]
            new = _put(editor, label, batchnorm.node, anchor.blended(sampled, prior, samples.count))
            stability = measure_stability(means, variances, batchnorm.epsilon)
            layers.append(RecalibratedLayer(label, anchor, old, new, batchnorm.epsilon, stability))
    common_passes.RemoveUnusedNodesPass()(model)  # what led to statistics that were replaced
    return Recalibration(tuple(layers), samples.count)


def _read_all(model: ir.Model) -> dict[str, BatchNorm]:
    """Return the parameters of every BatchNormalization by its label, in graph order."""
    nodes = [node for node in model.graph.all_nodes() if is_batchnorm(node)]
    if not nodes:
        raise NotAdaptableError("There is no BatchNormalization in this model, so no statistics to recalibrate.")
    found = {}
    for label, node in zip(unique_labels(nodes), nodes, strict=True):
        if node.graph is not model.graph:
            raise NotAdaptableError(
                f"BatchNormalization {label!r} stands in the subgraph of a control flow node, where its statistics "
                "cannot be recalibrated."
            )
        read = read_batchnorm(node, opset_of(node))
        if isinstance(read, Rejection):
            raise NotAdaptableError(f"The statistics of a layer cannot be replaced: {read.sentence}")
        found[label] = read
    return found


def _rows(model: ir.Model, samples: Samples, batchable: bool) -> int:
    """Return how many samples to run at once."""
    sizes = {value.shape[0] for value in model.graph.inputs if not value.is_initializer() and value.shape}
    fixed = [size for size in sizes if isinstance(size, int)]
    if not fixed:
        return chunk_rows(samples.read(0, 1)) if batchable else 1
    if samples.count % fixed[0]:
        raise SampleError(f"The network takes batches of {fixed[0]}; {samples.count} samples are not whole batches.")
    return fixed[0]


def _sample(activations: Activations, batchnorm: BatchNorm) -> tuple[Array, Array]:
    """Return mean and biased variance within each sample of what a BatchNormalization is given.

    The first axis holds the samples, each perhaps several times in a row, as after a Reshape of (N, T, C) to (N·T, C).

    Args:
        activations: advanced up to the BatchNormalization.
        batchnorm: with C channels.

    Returns:
        The means (N, C), float64, and the variances (N, C), float64: of N samples, in their order.

    Raises:
        NotAdaptableError: its input was not sampled, or the first axis of that does not hold the samples.
    """
    value = batchnorm.node.inputs[0]
    name = (value.name if value is not None else None) or ""
    means, variances = [], []
    for rows, array in activations.chunks(name) if name in activations else ():
        if not len(array) or len(array) % rows:
            break
        grouped = array.reshape(rows, len(array) // rows, batchnorm.scale.size, -1)
        mean = grouped.mean(axis=(1, 3), dtype=np.float64)
        means.append(mean)
        variances.append(((grouped - mean[:, None, :, None]) ** 2).mean(axis=(1, 3)))
    else:
        if means:
            return np.concatenate(means), np.concatenate(variances)
    raise NotAdaptableError(
        f"BatchNormalization {batchnorm.node.name!r} is given {name!r}, whose first axis does not hold the samples."
    )


def _put(editor: Editor, label: str, node: ir.Node, statistics: Statistics) -> Statistics:
    """Give a BatchNormalization new statistics; return them as rounded to its dtype."""
    rounded = []
    for field, array in zip(PARAMETERS[2:], (statistics.mean, statistics.var), strict=True):
        index = 1 + PARAMETERS.index(field)
        value = node.inputs[index]
        dtype = constant_dtype(value)
        with np.errstate(over="ignore"):
            kept = array.astype(dtype.numpy()).astype(np.float64)
        if not np.isfinite(kept).all():
            raise SampleStatisticsError(label)
        name = (value.name if value is not None and value.is_initializer() else None) or f"{label}.{field}"
        editor.put_constant(node, index, DerivedConstant(name, array.shape, dtype, partial(np.copy, kept)))
        rounded.append(kept)
    return Statistics(*rounded)

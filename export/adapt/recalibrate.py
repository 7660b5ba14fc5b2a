"""Recalibrate the statistics of every BatchNormalization from samples: layer after layer, each on what the corrected
layers before it give.

    mean = (N · trained + n · sampled) / (N + n)        likewise the variance, biased

n is the number of samples, N the prior: for how many samples the statistics that training left count. Source:
Schneider et al. 2020, arXiv:2006.16971.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.adapt.activations import Activations
from normfold.export.adapt.layer_inputs import layer_inputs
from normfold.export.adapt.sample_stability import SampleStability, measure_stability
from normfold.export.adapt.samples import Samples
from normfold.export.arrays import Array
from normfold.export.bundle.statistics import Statistics
from normfold.export.errors import (
    NotAdaptableError,
    SampleStatisticsError,
    TrainingModeError,
    UnstableSamplesError,
)
from normfold.export.fold.batchnorm_parameters import (
    PARAMETERS,
    BatchNorm,
    is_canonical,
    is_training,
    read_batchnorm,
)
from normfold.export.fold.rejection import Rejection
from normfold.export.graph.constants import DerivedConstant, constant_dtype
from normfold.export.graph.editor import Editor
from normfold.export.graph.inference import infer_shapes
from normfold.export.graph.nodes import is_batchnorm, opset_of, unique_labels


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
    unchanged: tuple[str, ...] = ()
    """One sentence for each layer that kept its statistics, since they cannot be replaced or sampled."""

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
    allow_partial: bool = False,
    only: Collection[ir.Node] | None = None,
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
        allow_partial: leave layers as they are whose statistics cannot be replaced or sampled.
        only: the BatchNormalization nodes to recalibrate; None for all.
        progress: called with each step as it begins.

    Raises:
        NotAdaptableError: there is no BatchNormalization, one (with `allow_partial`: every one) whose statistics cannot
            be replaced or sampled, or the model cannot be run on the samples.
        TrainingModeError: a BatchNormalization is in training mode.
        SampleError: the samples cannot be cut into batches of the size that the model fixes.
        SampleStatisticsError: what the samples give is not finite.
        WriteError: the disk has no space for the activations.
    """
    common_passes.InlinePass()(model)
    common_passes.RemoveUnusedNodesPass()(model)
    infer_shapes(model, afresh=True)
    batchnorms, rejections = _read_all(model, only)
    if rejections and not allow_partial:
        raise _not_all(rejections, others=len(batchnorms) if only is None else 0)
    editor, layers = Editor(model.graph), []
    nodes = [batchnorm.node for batchnorm in batchnorms.values()]
    with closing(layer_inputs(model, nodes, samples, batchable)) as inputs:
        for number, ((label, batchnorm), activations) in enumerate(zip(batchnorms.items(), inputs, strict=True), 1):
            progress(f"recalibrating {number} of {len(batchnorms)}: {label}")
            with np.errstate(over="ignore", invalid="ignore"):  # _put raises for what is not finite
                found = _sample(activations, batchnorm)
                if isinstance(found, str):
                    rejections.append(found)
                    if not allow_partial:
                        raise _not_all(rejections, others=len(batchnorms) - 1 if only is None else 0)
                    continue
                means, variances = found
                sampled = Statistics(means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0))
            old = Statistics(batchnorm.running_mean, batchnorm.running_var)
            anchor = (trained or {}).get(label, old)
            new = _put(editor, label, batchnorm.node, anchor.blended(sampled, prior, samples.count))
            stability = measure_stability(means, variances, batchnorm.epsilon)
            layers.append(RecalibratedLayer(label, anchor, old, new, batchnorm.epsilon, stability))
    if not layers:
        raise _not_all(rejections, others=0)
    common_passes.RemoveUnusedNodesPass()(model)  # what led to statistics that were replaced
    return Recalibration(tuple(layers), samples.count, tuple(rejections))


def _not_all(rejections: list[str], others: int) -> NotAdaptableError:
    """Return the error of layers whose statistics stay, and what to do if others would not."""
    hint = [f"`allow_partial` leaves it and goes on with the other {others}."] if others else []
    return NotAdaptableError(" ".join((*rejections, *hint)))


def _read_all(model: ir.Model, only: Collection[ir.Node] | None) -> tuple[dict[str, BatchNorm], list[str]]:
    """Return the parameters of each BatchNormalization by its label, in graph order, and why others cannot be replaced.

    Raises:
        NotAdaptableError: there is no BatchNormalization.
        TrainingModeError: one is in training mode.
    """
    nodes = [node for node in model.graph.all_nodes() if is_batchnorm(node) and not is_canonical(node)]
    if not nodes:
        raise NotAdaptableError("There is no BatchNormalization in this model, so no statistics to recalibrate.")
    found, rejections = {}, []
    for label, node in zip(unique_labels(nodes), nodes, strict=True):
        if only is not None and node not in only:
            continue
        if node.graph is not model.graph:
            rejections.append(
                f"BatchNormalization {label!r} stands in the subgraph of a control flow node, where its statistics "
                "cannot be recalibrated."
            )
            continue
        if is_training(node, opset_of(node)):
            raise TrainingModeError(label)
        read = read_batchnorm(node, opset_of(node))
        if isinstance(read, Rejection):
            rejections.append(f"The statistics of a layer cannot be replaced: {read.sentence}")
        else:
            found[label] = read
    return found, rejections


def _sample(activations: Activations, batchnorm: BatchNorm) -> tuple[Array, Array] | str:
    """Return mean and biased variance within each sample of what a BatchNormalization is given.

    The first axis holds the samples, each perhaps several times in a row, as after a Reshape of (N, T, C) to (N·T, C).

    Args:
        activations: advanced up to the BatchNormalization.
        batchnorm: with C channels.

    Returns:
        The means (N, C), float64, and the variances (N, C), float64: of N samples, in their order. Or why there are
        none: its input was not sampled, or the first axis of that does not hold the samples.
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
    return f"BatchNormalization {batchnorm.node.name!r} is given {name!r}, whose first axis does not hold the samples."


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

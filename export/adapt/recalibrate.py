"""Statistics of every BatchNormalization, re-estimated from samples: layer after layer, each on what the corrected
layers before it give.

    mean = (N · trained + n · sampled) / (N + n)        likewise the variance, biased

n is the number of samples, N the prior: for how many samples the statistics that training left count. Source:
Schneider et al. 2020, arXiv:2006.16971.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from normfold.contract.atomic_write import os_errors_as_write_errors
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.adapt.activations import Activations, chunk_rows
from normfold.export.adapt.sample_stability import Halves, compare_halves
from normfold.export.adapt.samples import Samples
from normfold.export.bundle.statistics import Statistics
from normfold.export.errors import MovingSamplesError, NotAdaptableError, SampleError, SampleStatisticsError
from normfold.export.fold.affine import Array
from normfold.export.fold.batchnorm import PARAMETERS, BatchNorm, is_batchnorm, read_batchnorm
from normfold.export.fold.editor import Editor
from normfold.export.fold.rejection import Refusal, unique_labels
from normfold.export.graph.constants import Derived, constant_dtype
from normfold.export.graph.opsets import opset_of
from normfold.export.graph.shapes import infer_shapes


@dataclass(frozen=True, eq=False)
class Layer:
    """What became of one BatchNormalization."""

    node: str
    trained: Statistics
    """As training left them: what was blended with."""
    old: Statistics
    new: Statistics
    epsilon: float
    halves: Halves

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
class Reestimation:
    """Every BatchNormalization in graph order, and how many samples spoke."""

    layers: tuple[Layer, ...]
    samples: int

    @property
    def trained(self) -> dict[str, Statistics]:
        """By node, the statistics that training left."""
        return {layer.node: layer.trained for layer in self.layers}

    def require(self) -> None:
        """Raise if the samples' first half is not like their second.

        Raises:
            MovingSamplesError: naming the layer whose halves lie farthest apart, beside chance.
        """
        found = [
            (gap.z, gap.gap, layer.node, what)
            for layer in self.layers
            for gap, what in ((layer.halves.means, "means"), (layer.halves.variances, "variances"))
            if gap.is_real
        ]
        if found:
            z, gap, node, what = max(found)
            unit = "standard deviations" if what == "means" else "of themselves"
            raise MovingSamplesError(node, f"{what} lie {gap:.2g} {unit} apart", gap, z)


def reestimate(
    model: ir.Model,
    samples: Samples,
    prior: float,
    trained: Mapping[str, Statistics] | None = None,
    batchable: bool = True,
    progress: ProgressCallback = ignore_progress,
) -> Reestimation:
    """Re-estimate the statistics of a model, in place.

    Args:
        model: the unfolded model, from `export.onnx_io.model_file.load_model`; its functions are inlined, and what
            nobody reads
            is removed.
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
        WriteError: there is no room for the activations.
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
            progress(f"re-estimating {number} of {len(batchnorms)}: {label}")
            activations.advance(model, _alive_before(batchnorm.node, [each.node for each in batchnorms.values()]))
            with np.errstate(over="ignore", invalid="ignore"):  # _put says so, in a sentence
                means, variances = _sample(activations, batchnorm)
                sampled = Statistics(means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0))
            old = Statistics(batchnorm.running_mean, batchnorm.running_var)
            anchor = old if trained is None else trained[label]
            new = _put(editor, label, batchnorm.node, anchor.blended(sampled, prior, samples.count))
            halves = compare_halves(means, variances, batchnorm.epsilon)
            layers.append(Layer(label, anchor, old, new, batchnorm.epsilon, halves))
    common_passes.RemoveUnusedNodesPass()(model)  # what led to statistics that were replaced
    return Reestimation(tuple(layers), samples.count)


def _read_all(model: ir.Model) -> dict[str, BatchNorm]:
    """Return the parameters of every BatchNormalization by its label, in graph order."""
    nodes = [node for node in model.graph.all_nodes() if is_batchnorm(node)]
    if not nodes:
        raise NotAdaptableError("There is no BatchNormalization in this model, so no statistics to re-estimate.")
    found = {}
    for label, node in zip(unique_labels(nodes), nodes, strict=True):
        if node.graph is not model.graph:
            raise NotAdaptableError(
                f"BatchNormalization {label!r} stands in the subgraph of a control flow node, where its statistics "
                "cannot be re-estimated."
            )
        read = read_batchnorm(node, opset_of(node))
        if isinstance(read, Refusal):
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


def _alive_before(node: ir.Node, batchnorms: Sequence[ir.Node]) -> list[ir.Value]:
    """Return the values made before a BatchNormalization that it, or one behind it, still needs."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    places = {each: place for place, each in enumerate(graph)}
    alive: dict[ir.Value, None] = {}
    queue = [each for each in batchnorms if places[each] >= places[node]]
    seen = set(queue)
    while queue:
        for value in _read_by(queue.pop()):
            producer = value.producer()
            if value.is_initializer() or (producer is not None and producer not in places):
                continue  # a constant, or a value within a subgraph
            if producer is None or places[producer] < places[node]:
                alive[value] = None
            elif producer not in seen:
                seen.add(producer)
                queue.append(producer)
    return list(alive)


def _read_by(node: ir.Node) -> list[ir.Value]:
    """Return what a node reads, and what nodes in its subgraphs read; a subgraph's own inputs come along."""
    inside = [each for graph in _subgraphs(node) for each in graph.all_nodes()]
    return [value for each in (node, *inside) for value in each.inputs if value is not None]


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def _sample(activations: Activations, batchnorm: BatchNorm) -> tuple[Array, Array]:
    """Return mean and biased variance within each sample of what a BatchNormalization is given.

    The first axis holds the samples, each perhaps several times in a row, as behind a Reshape of (N, T, C) to (N·T, C).

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
        editor.put_constant(node, index, Derived(name, array.shape, dtype, partial(np.copy, kept)))
        rounded.append(kept)
    return Statistics(*rounded)

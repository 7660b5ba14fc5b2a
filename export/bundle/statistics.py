"""The statistics of a bundle's BatchNormalization nodes, kept beside its graphs.

`statistics.safetensors`: what a fold makes vanish from the graph.

Tensors, for each BatchNormalization NODE, float64 of shape (C,):

    NODE.scale  NODE.shift  NODE.running_mean  NODE.running_var

Metadata: `batchnorm`, a JSON array in graph order of {node, epsilon, outcome, output_value}; the last is the
value of the folded graph that holds what the node gave out, or null where no value does. And `merging`, `true` or
`false`: whether the fold made one layer of parallel branches. Where data were there, the ranges of the values on them
are kept too (`recorded_ranges`).

`trained.safetensors`, in adapted bundles alone: what training left, as NODE.running_mean and NODE.running_var.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load, save

from normfold.export.arrays import Array
from normfold.export.bundle.recorded_ranges import RecordedRanges
from normfold.export.fold.batchnorm_parameters import PARAMETERS
from normfold.export.fold.report import FoldReport

TRAINED_NAME = "trained.safetensors"
_TRAINED = PARAMETERS[2:]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Running mean and variance of one BatchNormalization, each (C,), float64."""

    mean: Array
    var: Array

    def blended(self, sampled: Statistics, prior: float, count: int) -> Statistics:
        """Return the weighted average: these statistics have the weight `prior`, `sampled` the weight `count`."""
        share = count / (prior + count)
        return Statistics(
            (1 - share) * self.mean + share * sampled.mean,
            (1 - share) * self.var + share * sampled.var,
        )


def save_statistics(report: FoldReport, path: Path, merging: bool, recorded: RecordedRanges | None = None) -> None:
    """Write the parameters of every BatchNormalization that could be read, where each went, and the recorded ranges.

    Raises:
        OSError: the path cannot be written.
    """
    entries = [entry for entry in report.entries if entry.node in report.parameters]
    tensors = {
        f"{entry.node}.{name}": np.ascontiguousarray(getattr(report.parameters[entry.node], name))
        for entry in entries
        for name in PARAMETERS
    }
    index = [
        {
            "node": entry.node,
            "epsilon": report.parameters[entry.node].epsilon,
            "outcome": entry.outcome.value,
            "output_value": entry.output_value,
        }
        for entry in entries
    ]
    metadata = {"batchnorm": json.dumps(index), "merging": json.dumps(merging)}
    if recorded is not None:
        tensors |= recorded.tensors()
        metadata |= recorded.metadata()
    path.write_bytes(save(tensors, metadata=metadata))


@dataclass(frozen=True, eq=False)
class StoredBatchNorm:
    """A BatchNormalization as `statistics.safetensors` has it: parameters of shape (C,), float64."""

    node: str
    outcome: str
    output_value: str | None
    """The value of the folded graph that holds what it gave out; None where no value does."""
    scale: Array
    shift: Array
    running_mean: Array
    running_var: Array
    epsilon: float


def stored_batchnorms(report: FoldReport) -> list[StoredBatchNorm]:
    """Return what `save_statistics` would write and `read_statistics` read."""
    return [
        StoredBatchNorm(
            node=entry.node,
            outcome=entry.outcome.value,
            output_value=entry.output_value,
            epsilon=report.parameters[entry.node].epsilon,
            **{name: np.asarray(getattr(report.parameters[entry.node], name), np.float64) for name in PARAMETERS},
        )
        for entry in report.entries
        if entry.node in report.parameters
    ]


def read_statistics(path: Path) -> list[StoredBatchNorm]:
    """Read what a bundle keeps of its BatchNormalization nodes, in graph order."""
    with safe_open(path, "numpy") as file:
        index = json.loads((file.metadata() or {}).get("batchnorm", "[]"))
        return [
            StoredBatchNorm(
                node=entry["node"],
                outcome=entry["outcome"],
                output_value=entry["output_value"],
                epsilon=entry["epsilon"],
                **{name: file.get_tensor(f"{entry['node']}.{name}") for name in PARAMETERS},
            )
            for entry in index
        ]


def read_merging(path: Path) -> bool:
    """Return whether a bundle's fold merged branches; as by default, where an older one does not say."""
    with safe_open(path, "numpy") as file:
        return bool(json.loads((file.metadata() or {}).get("merging", "true")))


def save_trained(trained: Mapping[str, Statistics], path: Path) -> None:
    """Write the statistics that training left, by node.

    Raises:
        OSError: the path cannot be written.
    """
    fields = [(node, dict(zip(_TRAINED, (each.mean, each.var), strict=True))) for node, each in trained.items()]
    path.write_bytes(save({f"{node}.{name}": array for node, pair in fields for name, array in pair.items()}))


def read_trained(path: Path) -> dict[str, Statistics]:
    """Read the statistics that training left, by node."""
    tensors = load(path.read_bytes())
    nodes = dict.fromkeys(
        name.removesuffix(f".{field}") for name in tensors for field in _TRAINED if name.endswith(field)
    )
    return {node: Statistics(*(tensors[f"{node}.{field}"] for field in _TRAINED)) for node in nodes}

"""The statistics that a fold makes vanish from the graph, kept beside it in `statistics.safetensors`.

Tensors, for each BatchNormalization NODE, float64 of shape (C,):

    NODE.scale  NODE.shift  NODE.running_mean  NODE.running_var

Metadata: `batchnorm`, a JSON array in graph order of {node, epsilon, outcome, carrier}; the carrier is the value of the
folded graph that holds what the node gave out, or null where no value does.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from export.batchnorm import PARAMETERS
from export.report import FoldReport


def save_statistics(report: FoldReport, path: Path) -> None:
    """Write the parameters of every BatchNormalization that could be read, and where each went.

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
            "carrier": entry.carrier,
        }
        for entry in entries
    ]
    path.write_bytes(save(tensors, metadata={"batchnorm": json.dumps(index)}))

"""Averages that ONNX Runtime cannot compute in int8: they are next to nothing beside the numbers that they are of.

QLinearGlobalAveragePool runs where 2⁻³² <= scale of the input / (scale of the output · positions) < 256, and fails
otherwise (CheckQLinearGlobalAveragePoolScaleAndSize in MLAS). Behind a LayerNormalization, for example, an average is 0
but for rounding. Such a value has no range: it stays in float32, and so do the nodes that make and read it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normfold.export.graph.shapes import sizes_of
from normfold.export.quantize.int8.ranges.channel_ranges import ChannelRange

_LEAST, _GREATEST = 2.0**-31, 255.0


def without_vanishing_averages(graph: ir.Graph, ranges: Mapping[str, ChannelRange]) -> dict[str, ChannelRange]:
    """Return the ranges that are not those of such averages.

    Args:
        graph: prepared.
        ranges: of its values.
    """
    kept = dict(ranges)
    for node in graph:
        if node.op_type != "GlobalAveragePool" or node.domain != "" or node.inputs[0] is None:
            continue
        source, result = (ranges.get(value.name or "") for value in (node.inputs[0], node.outputs[0]))
        if source is None or result is None:
            continue
        positions = [size for size in (sizes_of(node.inputs[0]) or ())[2:] if isinstance(size, int)]
        if not _LEAST <= _scale(source) / _scale(result) / max(math.prod(positions), 1) < _GREATEST:
            del kept[node.outputs[0].name or ""]
    return kept


def _scale(known: ChannelRange) -> float:
    """Return the scale that ONNX Runtime's quantiser gives a value: 1 where all numbers are 0."""
    low, high = known.bounds
    scale = (max(high, 0.0) - min(low, 0.0)) / 255
    return scale if scale >= np.finfo(np.float32).tiny else 1.0

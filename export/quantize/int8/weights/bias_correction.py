"""Correct the mean error that rounding the weights of a layer makes in each of its outputs.

With W̃ what the rounded weights stand for, and x the input, the outputs are off by (W̃ - W) · E[x] in the mean, and the
bias takes this away. Borders, where a Conv reads zeros, are left out of account.

Source: Nagel et al. 2019, arXiv:1906.04721, section 4.2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from normfold.export.arrays import Array
from normfold.export.quantize.int8.layers import Layer, read_array, write_array
from normfold.export.quantize.int8.ranges.channel_ranges import Ranges
from normfold.export.quantize.int8.weights.weight_scales import quantised_rows


def correct_bias(layer: Layer, scales: npt.NDArray[np.float32], ranges: Ranges) -> bool:
    """Correct the bias of a layer, in place; return whether it could be: the layer has a bias, its input a known mean.

    Args:
        layer: of a prepared network.
        scales: of its weight, (C_out,).
        ranges: of the network's values.
    """
    source, bias = layer.node.inputs[0], layer.bias
    known = ranges.get(source.name or "") if source is not None else None
    rows = layer.rows()
    inputs = rows.shape[1] * layer.group
    if bias is None or known is None or known.mean.size not in (1, inputs):
        return False
    error = mean_error(rows, scales, np.broadcast_to(known.mean, (inputs,)), layer.group)
    write_array(bias, read_array(bias) - error)
    return True


def mean_error(rows: Array, scales: npt.NDArray[np.float32], mean: Array, group: int) -> Array:
    """Return the mean error of each output, (C_out,).

    Args:
        rows: the weight, (C_out, C_in / group, taps).
        scales: (C_out,).
        mean: of each input channel, (C_in,).
        group: number of groups.
    """
    rounded = quantised_rows(rows, scales).astype(np.float64) * scales.astype(np.float64)[:, None, None]
    by_channel = (rounded - rows).sum(axis=2).reshape(group, -1, rows.shape[1])
    error: Array = np.einsum("goc,gc->go", by_channel, mean.reshape(group, -1)).reshape(-1)
    return error

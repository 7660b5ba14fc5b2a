"""Scales of int8 weights for each output, such that no sum of two products overflows 16 bits.

On x86 without VNNI, ONNX Runtime multiplies unsigned activations by signed weights with `vpmaddubsw`, which adds the
products of two neighbours in 16 bits, and saturates: 255 · (w + w') must stay within 32767. So the weights of a pair
that have the same sign may sum to 128 at most:

    scale = max(|w|max / 127, largest same-sign pair sum / 128)

Neighbours are the weights of input channels 2c and 2c + 1 of one tap, or rows 2k and 2k + 1 of a matrix. Where a tap
has an odd number of channels, the last of one tap may be the neighbour of the first of the next. A depthwise Conv
without a multiplier has none: its kernels add in 32 bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from normfold.export.arrays import Array, Tensor
from normfold.export.quantize.int8.layers import Layer

MAX_WEIGHT = 127
MAX_PAIR_SUM = 128
"""255 · 128 = 32640, and 255 · 129 = 32895 is beyond 16 bits."""


def pair_sums(rows: Tensor, depthwise: bool) -> Tensor:
    """Return the largest sum of two weights of the same sign that are added in 16 bits, for each output.

    Args:
        rows: (C_out, C_in / group, taps), floats or integers.
        depthwise: the kernel adds no two products in 16 bits.

    Returns:
        (C_out,), of the dtype of `rows`, integers of 8 bits as int64; the largest weight where there are no pairs.
    """
    wide = rows if rows.dtype.kind == "f" else rows.astype(np.int64)
    outputs, channels, _ = wide.shape
    flat = np.swapaxes(wide, 1, 2).reshape(outputs, -1)
    orders = [flat]
    if depthwise:
        maxima: Tensor = np.abs(flat).max(axis=1, initial=0)
        return maxima
    if channels % 2:  # pairs may begin anew with every tap
        orders.append(np.pad(np.swapaxes(wide, 1, 2), ((0, 0), (0, 0), (0, 1))).reshape(outputs, -1))
    sums: Tensor = np.max([_maximum_sums(np.pad(order, ((0, 0), (0, order.shape[1] % 2)))) for order in orders], axis=0)
    return sums


def _maximum_sums(flat: Tensor) -> Tensor:
    """Return the largest sum of a pair of one sign in each row of an even number of weights."""
    sides = [np.maximum(flat, 0), np.maximum(np.negative(flat), 0)]
    sums: Tensor = np.max([(side[:, 0::2] + side[:, 1::2]).max(axis=1, initial=0) for side in sides], axis=0)
    return sums


def is_depthwise(rows: Tensor, group: int) -> bool:
    """Return whether a weight (C_out, C_in / group, taps) is of a depthwise Conv without a multiplier."""
    return group > 1 and rows.shape[0] == group and rows.shape[1] == 1


def weight_scales(layer: Layer) -> npt.NDArray[np.float32]:
    """Return the scale of each output of a layer, (C_out,), positive.

    A row of zeros has the mean scale of the others, so that its bias is rounded like theirs.
    """
    rows = layer.rows()
    maxima = np.abs(rows).reshape(len(rows), -1).max(axis=1, initial=0)
    sums = pair_sums(rows, is_depthwise(rows, layer.group))
    scales = np.maximum(maxima / MAX_WEIGHT, sums / MAX_PAIR_SUM)
    used = scales > np.finfo(np.float32).tiny
    scales[~used] = scales[used].mean() if used.any() else 1.0
    return _rounded_up(scales)


def quantised_rows(rows: Array, scales: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """Return weights (C_out, C_in / group, taps) in int8, rounded half to even as ONNX Runtime's quantiser does."""
    divided = rows.astype(np.float32) / scales[:, None, None]
    rounded: npt.NDArray[np.int8] = np.clip(np.rint(divided), -MAX_WEIGHT - 1, MAX_WEIGHT).astype(np.int8)
    return rounded


def _rounded_up(scales: Array) -> npt.NDArray[np.float32]:
    """Return scales in float32, a few roundings larger: a quotient in float32 then exceeds no bound by its rounding."""
    return (scales * (1 + 4 * float(np.finfo(np.float32).eps))).astype(np.float32)

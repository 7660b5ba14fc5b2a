"""Sizes that a network's constants suggest for the free axes of its inputs: it may run with these and with no others.

Files are made dynamic by changing their inputs alone, while constants inside still have the sizes of the export: the
first state of an LSTM, the target of a Reshape, a table of positions, the linear layer behind a Flatten.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt

import numpy as np
import onnx_ir as ir

from normfold.export.graph.constants import constant_tensor
from normfold.export.graph.nodes import all_nodes

MAX_SIZE = 4096
"""Larger sizes are not suggested."""
_MAX_NUMBERS = 8
"""Length of a vector of integers that may be a shape."""
_REDUCTIONS = (1, 2, 4, 8, 16, 32)
"""Ratios between the height of an image and that of a network's last map."""
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LSTM", "GRU", "RNN", "Gather"})
"""Operators whose first constants are weights, of which no size is one of rows or positions."""
_FIRST_STATE = 4
"""The first input of a recurrent layer that holds a state; earlier ones but the lengths are weights."""


def suggested_sizes(model: ir.Model) -> list[int]:
    """Return sizes to try, without repetition: first those of tables, states and shapes, then those of images."""
    return list(dict.fromkeys(size for size in (*_of_operands(model), *_of_images(model)) if 1 < size <= MAX_SIZE))


def _of_operands(model: ir.Model) -> Iterator[int]:
    for node in all_nodes(model.graph):
        for index, value in enumerate(node.inputs):
            tensor = None if node.op_type in _LAYERS and index < _FIRST_STATE else constant_tensor(value)
            if tensor is None:
                continue
            if tensor.dtype == ir.DataType.INT64 and tensor.size <= _MAX_NUMBERS:
                yield from map(int, np.ravel(tensor.numpy()))
            else:
                yield from tensor.shape.numpy()


def _of_images(model: ir.Model) -> Iterator[int]:
    """Yield heights of images whose last map, flattened, has as many elements as a linear layer has inputs."""
    weights = {"Conv": set[tuple[int, ...]](), "Gemm": set(), "MatMul": set()}
    for node in all_nodes(model.graph):
        if node.op_type in weights and len(node.inputs) > 1:
            tensor = constant_tensor(node.inputs[1])
            if tensor is not None:
                weights[node.op_type].add(tuple(tensor.shape.numpy()))
    lengths = sorted({size for shape in weights["Gemm"] | weights["MatMul"] for size in shape})
    channels = sorted({shape[0] for shape in weights["Conv"]})
    for length in lengths:
        for count in channels:
            height = isqrt(length // count)
            if height > 1 and count * height**2 == length:
                yield from (height * ratio for ratio in _REDUCTIONS)

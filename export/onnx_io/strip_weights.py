"""Strip the weights of a model: a message for readers of the graph alone, whose memory does not grow with them.

onnx-ir has the like in its passes, but looks every initializer up in a list of all of them.
"""

from __future__ import annotations

import math
from functools import lru_cache

import onnx
import onnx_ir as ir

_MAX_KEPT_INTEGERS = 125
"""Elements of a constant that inference may need, such as the target of a Reshape."""
_MAX_KEPT_FLOATS = 16
"""The same of floats, such as the scales of a Resize: one for each axis."""


def without_initializers(model: ir.Model) -> onnx.ModelProto:
    """Return the model as a message without its initializers."""
    initializers = dict(model.graph.initializers)
    for name in initializers:  # clear() looks for the first of those left each time: quadratic
        del model.graph.initializers[name]
    try:
        return ir.to_proto(model)
    finally:
        model.graph.initializers.update(initializers)


def without_weights(model: ir.Model) -> onnx.ModelProto:
    """Return a valid model in which every initializer is an input, but for small ones."""
    proto = without_initializers(model)
    inputs = {value.name for value in proto.graph.input}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            continue
        dtype, shape = tensor.dtype, tensor.shape.numpy()
        if name not in inputs:
            proto.graph.input.add(name=name, type=_type(dtype.value, shape))
        limit = _MAX_KEPT_FLOATS if dtype.is_floating_point() else _MAX_KEPT_INTEGERS
        if math.prod(shape) <= limit and not isinstance(tensor, (ir.LazyTensor, ir.ExternalTensor)):
            content = proto.graph.initializer.add()
            content.CopyFrom(ir.serde.serialize_tensor(tensor))
            content.name = name
    return proto


@lru_cache(maxsize=1024)
def _type(dtype: int, shape: tuple[int, ...]) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(dtype, shape)

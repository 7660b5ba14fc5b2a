"""Strip the weights of a model: a message for readers of the graph alone, whose memory does not grow with them.

onnx-ir has the like in its passes, but looks every initializer up in a list of all of them.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

MAX_KEPT_BYTES = 1_000
"""Bytes: smaller constants, such as the target of a Reshape, are what inference needs."""


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
        if name not in inputs:
            kind = onnx.helper.make_tensor_value_info(name, tensor.dtype.value, tensor.shape.numpy())
            proto.graph.input.append(kind)
        if tensor.nbytes <= MAX_KEPT_BYTES and not isinstance(tensor, ir.LazyTensor | ir.ExternalTensor):
            content = proto.graph.initializer.add()
            content.CopyFrom(ir.serde.serialize_tensor(tensor))
            content.name = name
    return proto

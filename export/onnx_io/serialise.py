"""A ModelProto in pieces: its weights are made one by one, and none is in memory twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
import onnx_ir as ir

from normfold.export.onnx_io.strip_weights import without_initializers

# Numbers of the fields written by hand below, from onnx.proto.
_GRAPH_OF_MODEL = 7
_INITIALIZER_OF_GRAPH = 5
_RAW_DATA_OF_TENSOR = 9


def serialised(model: ir.Model) -> Iterator[bytes]:
    """Yield a ModelProto in pieces, its weights one by one.

    onnx and onnx-ir build the message and then its bytes: every weight is in memory twice more. Here the small part of
    the message is made by onnx-ir; the initializers, which may stand anywhere in it, follow.
    """
    initializers = list(model.graph.initializers.values())
    small = without_initializers(model)
    graph = small.graph.SerializeToString(deterministic=True)
    small.ClearField("graph")

    tensors = [_tensor_parts(value) for value in initializers]
    sizes = [len(head) + size for head, size, _ in tensors]
    fields = sum(len(_prefix(_INITIALIZER_OF_GRAPH, size)) + size for size in sizes)
    yield small.SerializeToString(deterministic=True)
    yield _prefix(_GRAPH_OF_MODEL, len(graph) + fields)
    yield graph
    for (head, _, content), size in zip(tensors, sizes, strict=True):
        yield _prefix(_INITIALIZER_OF_GRAPH, size)
        yield head
        yield content()


def _tensor_parts(value: ir.Value) -> tuple[bytes, int, Callable[[], bytes]]:
    """Return a TensorProto's bytes up to its content, the content's size, and a function that makes the content."""
    tensor = value.const_value
    assert tensor is not None  # an initializer of a loaded model
    if tensor.dtype == ir.DataType.STRING:
        proto = ir.to_proto(tensor)
        proto.name = value.name or ""
        return proto.SerializeToString(deterministic=True), 0, bytes
    head = onnx.TensorProto(name=value.name, data_type=tensor.dtype.value, dims=tensor.shape.numpy())
    prefix = _prefix(_RAW_DATA_OF_TENSOR, tensor.nbytes)
    return head.SerializeToString(deterministic=True) + prefix, tensor.nbytes, tensor.tobytes


def _prefix(field: int, size: int) -> bytes:
    """Return what stands before a length-delimited field: its number with wire type 2, and its size, as varints."""
    encoded = bytearray()
    for number in (field << 3 | 2, size):
        while number > 0x7F:
            encoded.append(number & 0x7F | 0x80)
            number >>= 7
        encoded.append(number)
    return bytes(encoded)

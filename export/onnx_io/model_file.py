"""ONNX files: read with every fault named, written one weight at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import google.protobuf.message
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from normfold.export.errors import FoldError, ModelFileError
from normfold.export.onnx_io.strip_weights import without_initializers, without_weights

MIN_OPSET = 7
IR_VERSION_IN_FILE = "ir_version_in_file"
"""Key in the metadata, in memory, of a model that was loaded."""
_MAX_MESSAGE_BYTES = 2**31 - 1
"""Bytes: protobuf reads no larger message."""
_CAME_EXTERNAL = "came_external"
_USUAL_IR_VERSION = 10
"""Of 2024: older runtimes are not worth lowering it further."""
_MIN_EXTERNAL_BYTES = 256
"""Bytes: smaller weights stay in the model's own file."""

# Numbers of the fields written by hand below, from onnx.proto.
_GRAPH_OF_MODEL = 7
_INITIALIZER_OF_GRAPH = 5
_RAW_DATA_OF_TENSOR = 9


def load_model(path: Path) -> ir.Model:
    """Read and check an ONNX model; weights in external files stay on disk until they are asked for.

    The model declares no newer IR version than its opset needs: runtimes reject a newer one whatever the file uses, and
    onnx's helpers write the newest.

    Raises:
        ModelFileError: missing, unreadable, not ONNX, invalid, or using what is not supported; the message says which.
    """
    proto = _parse(path)
    _check_supported(path, proto)
    for entry in proto.opset_import:
        entry.domain = "" if entry.domain == "ai.onnx" else entry.domain  # two spellings of the standard operators
    try:
        model = ir.from_proto(proto)
        onnx.checker.check_model(without_weights(model))
    except Exception as error:  # noqa: BLE001 -- both raise many kinds for an invalid graph, all of them its fault
        raise ModelFileError(path, f"is not a valid ONNX graph: {_innermost(error)}") from None
    needed = onnx.helper.find_min_ir_version_for(list(proto.opset_import), ignore_unknown=True)
    model.meta[IR_VERSION_IN_FILE] = proto.ir_version
    model.meta[_CAME_EXTERNAL] = any(tensor.nbytes > _MIN_EXTERNAL_BYTES for tensor in external_tensors(model))
    model.ir_version = min(proto.ir_version, max(needed, _USUAL_IR_VERSION))
    ir.external_data.set_base_dir(model.graph, path.parent)
    for tensor in _weights(model):
        _check_external(path, tensor)
    return model


def save_model(model: ir.Model, path: Path) -> None:
    """Write a model. To make it appear only when complete, write to a path from `contract.atomic_write.atomic_path`.

    If the model came with external data, or is too large for one file, its weights go to `path` + ".data".

    Raises:
        OSError: the folder does not exist, is not writable, or the disk is full.
    """
    if _needs_external_data(model):
        ir.save(
            model, path, format="protobuf", external_data=f"{path.name}.data", size_threshold_bytes=_MIN_EXTERNAL_BYTES
        )
        return
    with path.open("wb") as file:
        for piece in _serialised(model):
            file.write(piece)


def check_result(model: ir.Model) -> None:
    """Check a model that was changed: onnx's checker, and types and shapes that agree, weights apart.

    Raises:
        FoldError: it is not valid.
    """
    proto = without_weights(model)
    try:
        onnx.checker.check_model(proto)
        onnx.shape_inference.infer_shapes(proto, check_type=True)
    except Exception as error:  # noqa: BLE001 -- both raise many kinds
        raise FoldError(_innermost(error)) from None


def require_consistent(path: Path) -> None:
    """Check that what a file says of its own values agrees with what its nodes give.

    Raises:
        ModelFileError: it does not; then a fold of it cannot either.
    """
    try:
        onnx.shape_inference.infer_shapes(without_weights(load_model(path)), check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise ModelFileError(path, f"contradicts itself: {_innermost(error)}") from None


def external_tensors(model: ir.Model) -> list[ir.ExternalTensor]:
    """Return the weights of a loaded model that are kept in other files."""
    return [tensor for tensor in _weights(model) if isinstance(tensor, ir.ExternalTensor)]


def _weights(model: ir.Model) -> list[ir.TensorProtocol]:
    """Return the initializers of the graph and of the bodies inside it."""
    values = [value for graph in (model.graph, *model.graph.subgraphs()) for value in graph.initializers.values()]
    return [value.const_value for value in values if value.const_value is not None]


def _parse(path: Path) -> onnx.ModelProto:
    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror}.") from None
    except google.protobuf.message.DecodeError:
        raise ModelFileError(path, "is not an ONNX model, or is cut short.") from None
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelFileError(path, "is not an ONNX model: it holds no graph or states no opset.")
    return proto


def _check_supported(path: Path, proto: onnx.ModelProto) -> None:
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    newest = onnx.defs.onnx_opset_version()
    opset = opsets.get("", opsets.get("ai.onnx"))
    if opset is not None and not MIN_OPSET <= opset <= newest:
        raise ModelFileError(path, f"has opset {opset}; opsets {MIN_OPSET} to {newest} are supported.")
    if proto.graph.sparse_initializer:
        raise ModelFileError(path, f"has a sparse initializer {proto.graph.sparse_initializer[0].values.name!r}.")
    for tensor in proto.graph.initializer:
        _check_content(path, tensor)
    if proto.training_info:
        raise ModelFileError(path, "holds training information; export the inference graph alone.")


def _check_content(path: Path, tensor: onnx.TensorProto) -> None:
    """Check that a tensor holds as many bytes as its shape needs, and that what it says of a file can be read."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        numbers = [entries.get(key, "0") for key in ("offset", "length")]
        if "location" not in entries or not all(number.isascii() and number.isdecimal() for number in numbers):
            raise ModelFileError(path, f"does not say properly where the weight {tensor.name!r} is kept.")
        if not (path.parent / entries["location"]).resolve().is_relative_to(path.parent.resolve()):
            raise ModelFileError(path, f"keeps the weight {tensor.name!r} outside its own folder.")
        return
    try:
        numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError):
        raise ModelFileError(path, f"holds a weight {tensor.name!r} whose content does not fit its shape.") from None


def _check_external(path: Path, tensor: ir.TensorProtocol | None) -> None:
    if not isinstance(tensor, ir.ExternalTensor):
        return
    file = Path(tensor.path)
    if not file.is_file():
        raise ModelFileError(path, f"keeps the weight {tensor.name!r} in {tensor.location!r}, which is missing.")
    if (tensor.offset or 0) + tensor.nbytes > file.stat().st_size:
        raise ModelFileError(path, f"keeps the weight {tensor.name!r} in {tensor.location!r}, which is cut short.")


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def _needs_external_data(model: ir.Model) -> bool:
    sizes = [tensor.nbytes for tensor in _weights(model)]
    wanted = model.meta.get(_CAME_EXTERNAL, False) and any(size > _MIN_EXTERNAL_BYTES for size in sizes)
    return wanted or sum(sizes) > 0.95 * _MAX_MESSAGE_BYTES


def _serialised(model: ir.Model) -> Iterator[bytes]:
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

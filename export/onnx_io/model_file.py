"""ONNX files: read with every fault named, written one weight at a time."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import google.protobuf.message
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from normfold.export.errors import FoldError, ModelFileError
from normfold.export.onnx_io.convert_opset import ConversionError, converted
from normfold.export.onnx_io.normalise import normalise, tensors_of
from normfold.export.onnx_io.runtime_check import innermost, runtime_fault
from normfold.export.onnx_io.serialise import serialised
from normfold.export.onnx_io.stated_outputs import drop_made_up_names, restore_stated_sizes
from normfold.export.onnx_io.strip_weights import without_weights

logging.getLogger("onnx_ir").addHandler(logging.NullHandler())  # what it warns of in invalid files is an error here

MIN_OPSET = 7
IR_VERSION_IN_FILE = "ir_version_in_file"
"""Key in the metadata, in memory, of a model that was loaded; None where its opset was converted as well."""
OPSET_IN_FILE = "opset_in_file"
"""Key in the metadata, in memory, of a model whose opset was too old, and was converted."""
_CHECKED_BY_RUNTIME = "checked_by_runtime"
_MAX_MESSAGE_BYTES = 2**31 - 1
"""Bytes: protobuf reads no larger message."""
_CAME_EXTERNAL = "came_external"
_USUAL_IR_VERSION = 10
"""Of 2024: older runtimes are not worth lowering it further."""
_MIN_EXTERNAL_BYTES = 256
"""Bytes: smaller weights stay in the model's own file."""


def load_model(path: Path) -> ir.Model:
    """Read and check an ONNX model; weights in external files stay on disk until they are asked for.

    The model declares no newer IR version than its opset needs: runtimes reject a newer one whatever the file uses, and
    onnx's helpers write the newest.

    Raises:
        ModelFileError: missing, unreadable, not ONNX, invalid, or using what is not supported; the message says which.
    """
    proto = _parse(path)
    _check_supported(path, proto)
    in_file = proto.ir_version
    opset = normalise(proto)
    if opset is not None and opset < MIN_OPSET:
        proto = _converted(path, proto, opset)
    model, checked_by_runtime = _checked(path, proto)
    needed = onnx.helper.find_min_ir_version_for(list(proto.opset_import), ignore_unknown=True)
    model.ir_version = min(proto.ir_version, max(needed, _USUAL_IR_VERSION))
    model.meta[IR_VERSION_IN_FILE] = in_file
    if opset is not None and opset < MIN_OPSET:
        model.meta[OPSET_IN_FILE], model.meta[IR_VERSION_IN_FILE] = opset, None
    model.meta[_CHECKED_BY_RUNTIME] = checked_by_runtime
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors_of(proto.graph)):
        model.meta[_CAME_EXTERNAL] = any(tensor.nbytes > _MIN_EXTERNAL_BYTES for tensor in external_tensors(model))
        ir.external_data.set_base_dir(model.graph, path.parent)
        for tensor in _external_tensors_anywhere(model):
            _check_external(path, tensor)
        _read_what_is_written_inline(model)
    return model


def save_model(model: ir.Model, path: Path) -> None:
    """Write a model. To make it appear only when complete, write to a path from `contract.atomic_write.atomic_path`.

    If the model came with external data, or is too large for one file, its weights go to `path` + ".data".

    Raises:
        OSError: the folder does not exist, is not writable, or the disk is full.
    """
    restore_stated_sizes(model)
    drop_made_up_names(model)
    if _needs_external_data(model):
        ir.save(
            model, path, format="protobuf", external_data=f"{path.name}.data", size_threshold_bytes=_MIN_EXTERNAL_BYTES
        )
        return
    with path.open("wb") as file:
        for piece in serialised(model):
            file.write(piece)


def remove_model(path: Path) -> None:
    """Remove a model that `save_model` wrote, and the file of its weights if it has one."""
    path.unlink()
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)


def check_result(model: ir.Model) -> onnx.ModelProto | None:
    """Check a model that was changed: onnx's checker, and types and shapes that agree, weights apart.

    Returns:
        The model without its weights, with the shapes that inference found; None where ONNX Runtime alone takes it.

    Raises:
        FoldError: it is not valid.
    """
    proto = without_weights(model)
    try:
        onnx.checker.check_model(proto)
        return onnx.shape_inference.infer_shapes(proto, check_type=True, data_prop=True)
    except Exception as error:  # noqa: BLE001 -- both raise many kinds
        fault = innermost(error)
        if model.meta.get(_CHECKED_BY_RUNTIME):
            fault = runtime_fault(proto.SerializeToString(), otherwise=fault) or ""
        if fault:
            raise FoldError(fault) from None
    return None


def require_consistent(path: Path) -> None:
    """Check that what a file says of its own values agrees with what its nodes give.

    Raises:
        ModelFileError: it does not; then a fold of it cannot either.
    """
    try:
        onnx.shape_inference.infer_shapes(without_weights(load_model(path)), check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise ModelFileError(path, f"contradicts itself: {innermost(error)}") from None


def external_tensors(model: ir.Model) -> list[ir.ExternalTensor]:
    """Return the weights of a loaded model that are kept in other files."""
    return [tensor for tensor in _weights(model) if isinstance(tensor, ir.ExternalTensor)]


def _weights(model: ir.Model) -> list[ir.TensorProtocol]:
    """Return the initializers of the graph and of the bodies inside it."""
    values = [value for graph in (model.graph, *model.graph.subgraphs()) for value in graph.initializers.values()]
    return [value.const_value for value in values if value.const_value is not None]


def _checked(path: Path, proto: onnx.ModelProto) -> tuple[ir.Model, bool]:
    """Return a file's model, and whether ONNX Runtime had to be asked: it takes some that onnx's checker does not.

    Raises:
        ModelFileError: neither takes it.
    """
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # noqa: BLE001 -- it raises many kinds for an invalid graph, all of them its fault
        raise ModelFileError(path, f"is not a valid ONNX graph: {runtime_fault(path) or innermost(error)}") from None
    try:
        _state_outputs(model)
        onnx.checker.check_model(without_weights(model))
    except Exception as error:  # noqa: BLE001 -- as above
        fault = runtime_fault(path, otherwise=innermost(error))
        if fault is not None:
            raise ModelFileError(path, f"is not a valid ONNX graph: {fault}") from None
        return model, True
    return model, False


def _converted(path: Path, proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
        return converted(proto, MIN_OPSET)
    except (ConversionError, OSError) as error:
        text = f"has opset {opset}, and onnx's version converter cannot convert it to opset {MIN_OPSET}"
        raise ModelFileError(path, f"{text}: {error}") from None


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
    if opset is not None and not 1 <= opset <= newest:
        raise ModelFileError(path, f"has opset {opset}; opsets 1 to {newest} are supported.")
    repeated = [
        name for name, number in Counter(tensor.name for tensor in proto.graph.initializer).items() if number > 1
    ]
    if repeated:
        raise ModelFileError(path, f"holds two weights that are called {repeated[0]!r}.")
    for tensor in tensors_of(proto.graph):
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
        if not (path.parent / entries["location"]).is_file():
            text = f"keeps the weight {tensor.name!r} in {entries['location']!r}, which is missing."
            raise ModelFileError(path, text)
        return
    try:
        numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError):
        raise ModelFileError(path, f"holds a weight {tensor.name!r} whose content does not fit its shape.") from None


def _external_tensors_anywhere(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    for graph in (model.graph, *model.graph.subgraphs()):
        attributes = [
            each for node in graph for each in node.attributes.values() if each.type == ir.AttributeType.TENSOR
        ]
        tensors = [value.const_value for value in graph.initializers.values()]
        tensors += [each.as_tensor() for each in attributes if not each.is_ref()]
        yield from (tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor))


def _read_what_is_written_inline(model: ir.Model) -> None:
    """Read external tensors that a file holds itself when it is written: small ones, and those of attributes."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor) and value.const_value.nbytes <= _MIN_EXTERNAL_BYTES:
                value.const_value = _in_memory(value.const_value)
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                tensor = attribute.value if attribute.type == ir.AttributeType.TENSOR else None
                if isinstance(tensor, ir.ExternalTensor):
                    node.attributes[name] = ir.AttrTensor(name, _in_memory(tensor))


def _in_memory(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
    (read,) = ir.external_data.convert_tensors_from_external([tensor])
    return read


def _check_external(path: Path, tensor: ir.ExternalTensor) -> None:
    if (tensor.offset or 0) + tensor.nbytes > Path(tensor.path).stat().st_size:
        raise ModelFileError(path, f"keeps the weight {tensor.name!r} in {tensor.location!r}, which is cut short.")


def _state_outputs(model: ir.Model) -> None:
    """Give outputs that the file says nothing of the types and shapes that inference finds."""
    outputs = {value.name: value for value in model.graph.outputs if value.shape is None or value.type is None}
    if not outputs:
        return
    try:
        inferred = onnx.shape_inference.infer_shapes(without_weights(model), data_prop=True)
    except onnx.shape_inference.InferenceError:
        return
    for info in inferred.graph.output:
        if info.name in outputs and info.type.tensor_type.HasField("shape"):
            outputs[info.name].type = ir.serde.deserialize_type_proto_for_type(info.type)
            outputs[info.name].shape = ir.serde.deserialize_type_proto_for_shape(info.type)


def _needs_external_data(model: ir.Model) -> bool:
    sizes = [tensor.nbytes for tensor in _weights(model)]
    wanted = model.meta.get(_CAME_EXTERNAL, False) and any(size > _MIN_EXTERNAL_BYTES for size in sizes)
    return wanted or sum(sizes) > 0.95 * _MAX_MESSAGE_BYTES

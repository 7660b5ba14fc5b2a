"""The inputs and outputs of a network, as the manifest describes them."""

from __future__ import annotations

import onnx_ir as ir

from normfold.contract.manifest import TensorSpec
from normfold.export.errors import BundleExportError

_DATATYPES = {
    ir.DataType.BOOL: "BOOL",
    ir.DataType.UINT8: "UINT8",
    ir.DataType.UINT16: "UINT16",
    ir.DataType.UINT32: "UINT32",
    ir.DataType.UINT64: "UINT64",
    ir.DataType.INT8: "INT8",
    ir.DataType.INT16: "INT16",
    ir.DataType.INT32: "INT32",
    ir.DataType.INT64: "INT64",
    ir.DataType.FLOAT16: "FP16",
    ir.DataType.FLOAT: "FP32",
    ir.DataType.DOUBLE: "FP64",
    ir.DataType.STRING: "BYTES",
}


def input_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Return the inputs that a caller must give: those without a default among the initializers.

    Raises:
        BundleExportError: one has a type or shape that cannot be served.
    """
    return tuple(_spec(value) for value in model.graph.inputs if not value.is_initializer())


def output_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Return the outputs.

    Raises:
        BundleExportError: one has a type or shape that cannot be served.
    """
    return tuple(map(_spec, model.graph.outputs))


def _spec(value: ir.Value) -> TensorSpec:
    datatype = _DATATYPES.get(value.dtype) if value.dtype is not None else None
    if datatype is None or value.shape is None:
        raise BundleExportError(f"The input or output {value.name!r} has a type or shape that cannot be served.")
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorSpec(name=value.name or "", datatype=datatype, shape=shape)

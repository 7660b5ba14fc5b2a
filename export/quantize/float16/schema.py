"""Which inputs and outputs of a node may be float16, by the schema of its operator at the opset of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx.defs import OpSchema

from normfold.export.graph.nodes import opset_of

_FLOAT16 = "tensor(float16)"
_FLOAT32_OPERANDS = {"Resize": frozenset({1, 2}), "Upsample": frozenset({1})}
"""Region and scales: runtimes read them as float32, and a scale that is rounded changes the size of the output."""
_DTYPE_ATTRIBUTES = frozenset({"dtype", "output_datatype", "output_dtype"})


@dataclass(frozen=True)
class Slots:
    """The float32 inputs and outputs of a node that may be float16, by position."""

    inputs: frozenset[int]
    outputs: frozenset[int]

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self.inputs or self.outputs)


NO_SLOTS = Slots(frozenset(), frozenset())


def schema_of(node: ir.Node) -> OpSchema | None:
    """Return the schema of a node's operator; None where onnx has none."""
    try:
        return onnx.defs.get_schema(node.op_type, opset_of(node), node.domain)
    except onnx.defs.SchemaError:
        return None


def float16_slots(node: ir.Node, schema: OpSchema) -> Slots:
    """Return the inputs and outputs of a node that are float32 and may be float16."""
    allowed = {each.type_param_str: _FLOAT16 in each.allowed_type_strs for each in schema.type_constraints}
    fixed = _FLOAT32_OPERANDS.get(node.op_type, frozenset())
    inputs = _slots(node.inputs, schema.inputs, allowed) - fixed
    return Slots(inputs, _slots(node.outputs, schema.outputs, allowed))


def states_dtype(schema: OpSchema) -> bool:
    """Return whether an attribute of the operator, Cast apart, states the dtype of its output."""
    return not _DTYPE_ATTRIBUTES.isdisjoint(schema.attributes)


def is_float32(value: ir.Value | None) -> bool:
    """Return whether a value is a float32 tensor."""
    return value is not None and isinstance(value.type, ir.TensorType) and value.type.dtype == ir.DataType.FLOAT


def _slots(
    values: Sequence[ir.Value | None], formal: Sequence[OpSchema.FormalParameter], allowed: dict[str, bool]
) -> frozenset[int]:
    last = len(formal) - 1  # a variadic parameter is the last one
    return frozenset(
        place
        for place, value in enumerate(values)
        if last >= 0 and is_float32(value) and allowed.get(formal[min(place, last)].type_str, False)
    )

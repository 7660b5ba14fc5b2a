"""Evaluation of nodes whose inputs are constants, so that what they give is rounded once.

float32 and float64 are computed in float64 and stay so from node to node; narrower floats are rounded after each node,
as runtimes round them. A node whose result jumps (Round, Cast to integers, a comparison) reads what the file's own
dtypes hold: one unit in the last place before it could be a whole step behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper
from onnx.reference import ReferenceEvaluator

from normfold.export.arrays import Array, Tensor
from normfold.export.graph.constants import FLOATS, exact_values

_WIDE = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})

_MOVES = frozenset({"Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze"})
_ARITHMETIC = frozenset(
    {
        *("Abs", "Add", "Div", "Einsum", "Exp", "Gemm", "Log", "MatMul", "Max", "Mean", "Min", "Mul", "Neg", "Pow"),
        *("Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
        *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Sigmoid", "Softmax", "Softplus", "Sqrt", "Sub"),
        *("Clip", "CumSum", "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Relu", "Sum", "Tanh"),
    }
)
_CONTINUOUS = _MOVES | _ARITHMETIC | {"Tile", "Transpose", "Unsqueeze", "Where"}
_STEPS = frozenset(
    {
        *("And", "BatchNormalization", "Cast", "CastLike", "Ceil", "ConstantOfShape", "Equal", "Floor", "Greater"),
        *("GreaterOrEqual", "Less", "LessOrEqual", "Mod", "Not", "Or", "Range", "Round", "Shape", "Sign", "Size"),
        *("Trilu", "Xor"),
    }
)
_FAST = _CONTINUOUS | _STEPS
"""Operators that NumPy computes as a whole; the reference evaluator loops over the elements in some of the others."""

MAX_SLOW_ELEMENTS = 65_536
"""Elements that an operator which is not in `_FAST` may read."""


class EvaluationError(Exception):
    """A node cannot be evaluated: not known to onnx's reference evaluator, wrong, or too slow."""


@dataclass(frozen=True, eq=False)
class Content:
    """Values of a constant of a dtype: float64 where that is float32 or float64, else of the dtype itself."""

    array: Tensor
    dtype: ir.DataType

    @property
    def rounded(self) -> Tensor:
        """The values as the dtype holds them."""
        return _round(self.array, self.dtype) if self.dtype in _WIDE else self.array

    @property
    def exact(self) -> Array:
        """The values in float64."""
        values: Array = self.array.astype(np.float64)
        return values


def content_of(tensor: ir.TensorProtocol) -> Content:
    """Return the values of a constant, a derived one before it was rounded."""
    return Content(exact_values(tensor) if tensor.dtype in _WIDE else tensor.numpy(), tensor.dtype)


def evaluate(node: onnx.NodeProto, opset: int, operands: Sequence[Content | None]) -> list[Content]:
    """Evaluate a node of the standard operators.

    Args:
        node: its attributes and outputs count; inputs are taken by their place.
        opset: of the graph.
        operands: the content of each input, None for one that is absent.

    Returns:
        The content of each output that has a name; of a BatchNormalization, of the first.

    Raises:
        EvaluationError: it cannot be evaluated.
    """
    given = [operand for operand in operands if operand is not None]
    if node.op_type not in _FAST and sum(operand.array.size for operand in given) > MAX_SLOW_ELEMENTS:
        raise EvaluationError(f"{node.op_type} would be evaluated too slowly")
    try:
        with np.errstate(all="ignore"):
            if node.op_type == "BatchNormalization":
                return [_batchnorm(node, opset, given)]
            dtypes = {operand.dtype for operand in given} & FLOATS
            if node.op_type in _CONTINUOUS and len(dtypes) == 1:
                return _in_float64(node, opset, operands, *dtypes)
            arrays = [None if operand is None else operand.rounded for operand in operands]
            return [_content(result) for result in _run(node, opset, arrays)]
    except Exception as error:  # noqa: BLE001 -- the evaluator raises many kinds
        raise EvaluationError(str(error)) from None


def _in_float64(
    node: onnx.NodeProto, opset: int, operands: Sequence[Content | None], dtype: ir.DataType
) -> list[Content]:
    arrays = [
        None if operand is None else operand.exact if operand.dtype == dtype else operand.array for operand in operands
    ]
    results = []
    for result in _run(node, opset, arrays):
        is_float = result.dtype == np.float64
        results.append(Content(_kept(result, dtype), dtype) if is_float else _content(result))
    return results


def _batchnorm(node: onnx.NodeProto, opset: int, operands: Sequence[Content]) -> Content:
    """Return the output of a BatchNormalization; in training mode the statistics are those of its input.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, algorithm 1; ONNX BatchNormalization.
    """
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    x, scale, shift, mean, var = (operand.exact for operand in operands)
    if attributes.get("training_mode", 0) or (opset < 14 and sum(map(bool, node.output)) > 1):
        axes = tuple(axis for axis in range(x.ndim) if axis != 1)
        mean, var = x.mean(axes), x.var(axes)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    gain = scale.reshape(-1) / np.sqrt(var.reshape(-1) + float(np.float32(attributes.get("epsilon", 1e-5))))
    y = (x - mean.reshape(shape)) * gain.reshape(shape) + shift.reshape(shape)
    if y.shape != x.shape:
        raise EvaluationError("its parameters do not fit its input")
    return Content(_kept(y, operands[0].dtype), operands[0].dtype)


def _run(node: onnx.NodeProto, opset: int, arrays: Sequence[Tensor | None]) -> list[Tensor]:
    """Run a node through onnx's reference evaluator."""
    single = onnx.NodeProto()
    single.CopyFrom(node)
    del single.input[:]
    single.input.extend("" if array is None else f"input{place}" for place, array in enumerate(arrays))
    inputs = {name: array for name, array in zip(single.input, arrays, strict=True) if array is not None}
    outputs = [name for name in single.output if name]
    graph = helper.make_graph(
        [single],
        "node",
        [onnx.ValueInfoProto(name=name) for name in inputs],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    results = ReferenceEvaluator(model).run(None, inputs)
    if not all(isinstance(result, np.ndarray | np.generic) for result in results):
        raise EvaluationError(f"{node.op_type} gives no tensor")
    return [np.asarray(result) for result in results]


def _content(array: Tensor) -> Content:
    dtype = ir.DataType.from_numpy(array.dtype)
    return Content(_kept(array, dtype), dtype)


def _kept(array: Tensor, dtype: ir.DataType) -> Tensor:
    """Return an array as `Content` holds it."""
    kept: Tensor = array.astype(np.float64) if dtype in _WIDE else _round(array, dtype)
    return kept


def _round(array: Tensor, dtype: ir.DataType) -> Tensor:
    rounded: Tensor = array.astype(dtype.numpy(), copy=False)
    return rounded

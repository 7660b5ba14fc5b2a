"""Initializers: which may be read and replaced, and the exact values of those that a fold makes.

A weight that absorbs two affines must be rounded once. So a fold never computes a weight when it is planned: it
derives one, a function of others in float64, and the function runs when the file is written. Nothing larger than a
single weight is in memory then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from normfold.export.arrays import Array

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclass(frozen=True)
class DerivedConstant:
    """A constant that a rewrite needs: shape and dtype now, values in float64 when asked."""

    name: str
    shape: tuple[int, ...]
    dtype: ir.DataType
    compute: Callable[[], Array]

    @property
    def nbytes(self) -> int:
        """Size of its content."""
        return int(math.prod(self.shape) * self.dtype.itemsize)

    @property
    def fits(self) -> bool:
        """Return whether every finite value is finite in float16, which ends at 65504; other dtypes always fit."""
        if self.dtype != ir.DataType.FLOAT16:
            return True
        with np.errstate(over="ignore"):
            values = self.compute()
            return bool(np.array_equal(np.isfinite(values.astype(np.float16)), np.isfinite(values)))


class _DerivedTensor(ir.LazyTensor):
    """Rounds a derived constant to its dtype whenever its content is asked for."""

    def __init__(self, derived: DerivedConstant) -> None:
        def rounded() -> ir.Tensor[np.ndarray]:
            with np.errstate(over="ignore"):  # an overflow becomes infinite, and verification names the output
                return ir.Tensor(derived.compute().astype(derived.dtype.numpy()), dtype=derived.dtype)

        super().__init__(rounded, derived.dtype, ir.Shape(derived.shape), name=derived.name)
        self.derived = derived


def derived_tensor(derived: DerivedConstant) -> ir.TensorProtocol:
    """Return the tensor of a derived constant: evaluated when written, never kept."""
    return _DerivedTensor(derived)


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of a value that no caller and no node can change, or None.

    An initializer that is also a graph input may be overridden by the caller and does not count. Constant nodes,
    Identity, Transpose, and Cast from float to float are looked through: where another node reads the constant too, or
    it is stored in fewer bytes, they stay nodes.
    """
    if value is None or value.is_graph_input():
        return None
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is None or node.domain != "":
        return None
    if node.op_type == "Identity":
        return constant_tensor(node.inputs[0])
    if node.op_type == "Constant":
        try:
            return ir.convenience.get_const_tensor(value)
        except ValueError:  # a sparse tensor, or no one attribute
            return None
    if node.op_type == "Cast":
        return _cast(constant_tensor(node.inputs[0]), value.dtype)
    if node.op_type == "Transpose":
        return _transpose(constant_tensor(node.inputs[0]), node.attributes.get_ints("perm", None))
    return None


def not_constant_because(value: ir.Value | None) -> str:
    """Return the end of a sentence that says why a value is not a constant, after what names the value."""
    default = _overridable_source(value)
    if default is None:
        return "is an input of the graph" if value is not None and value.is_graph_input() else "is computed"
    source = "" if default is value else f"is computed from {default.name!r}, which "
    return f"{source}may be overridden by the caller (`freeze_inputs` makes its default a constant)"


def is_overridable(value: ir.Value | None) -> bool:
    """Return whether a value is a constant but for a caller, who may give another: an input with a default."""
    return value is not None and value.is_graph_input() and value.is_initializer()


def _overridable_source(value: ir.Value | None) -> ir.Value | None:
    """Return the first input with a default that a value is computed from; None if there is none, or another input."""
    waiting, seen = [value], set[ir.Value]()
    found = None
    while waiting:
        each = waiting.pop()
        if each is None or each in seen:
            continue
        seen.add(each)
        node = each.producer()
        if is_overridable(each):
            found = found or each
        elif each.is_graph_input() or (node is not None and any(map(_is_graph, node.attributes.values()))):
            return None
        elif node is not None:
            waiting += reversed(node.inputs)
    return found


def _is_graph(attribute: ir.Attr) -> bool:
    return attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _cast(tensor: ir.TensorProtocol | None, dtype: ir.DataType | None) -> ir.TensorProtocol | None:
    if tensor is None or dtype is None or not {tensor.dtype, dtype} <= FLOATS:
        return None
    return ir.Tensor(tensor.numpy().astype(dtype.numpy()), dtype=dtype)


def _transpose(tensor: ir.TensorProtocol | None, perm: Sequence[int] | None) -> ir.TensorProtocol | None:
    if tensor is None or tensor.dtype not in FLOATS:
        return None
    return ir.Tensor(np.transpose(tensor.numpy(), perm), dtype=tensor.dtype)


def is_constant(value: ir.Value | None) -> bool:
    """Return whether a value is a float constant that may be read and replaced."""
    tensor = constant_tensor(value)
    return tensor is not None and tensor.dtype in FLOATS


def constant_shape(value: ir.Value | None) -> tuple[int, ...]:
    """Return the shape of a constant.

    Raises:
        ValueError: the value is not a constant.
    """
    return tuple(_tensor(value).shape.numpy())


def constant_dtype(value: ir.Value | None) -> ir.DataType:
    """Return the dtype of a constant.

    Raises:
        ValueError: the value is not a constant.
    """
    return _tensor(value).dtype


def float64_reader(value: ir.Value | None) -> Callable[[], Array]:
    """Return a function that reads a constant in float64: a derived one before it was rounded.

    The function holds on to the constant itself, so it stays valid when the graph takes another in its place.

    Raises:
        ValueError: the value is not a constant.
    """
    return float64_reader_of(_tensor(value))


def float64_reader_of(tensor: ir.TensorProtocol) -> Callable[[], Array]:
    """Return a function that reads a tensor in float64: a derived one before it was rounded."""
    if type(tensor) is _DerivedTensor:  # isinstance asks onnx-ir's protocols, which is slow
        return tensor.derived.compute
    return partial(exact_values, tensor)


def exact_values(tensor: ir.TensorProtocol) -> Array:
    """Return a constant's values in float64: a derived one's before they were rounded."""
    if type(tensor) is _DerivedTensor:
        return tensor.derived.compute()
    values: Array = tensor.numpy().astype(np.float64)
    return values


def replace_by_constant(graph: ir.Graph, old: ir.Value, tensor: ir.TensorProtocol) -> None:
    """Put an initializer in the place of a node's output, under its name."""
    new = ir.Value(
        name=old.name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    old.replace_all_uses_with(new)
    graph.register_initializer(new)


def _tensor(value: ir.Value | None) -> ir.TensorProtocol:
    tensor = constant_tensor(value)
    if tensor is None:
        raise ValueError(f"{value} is not a constant")
    return tensor

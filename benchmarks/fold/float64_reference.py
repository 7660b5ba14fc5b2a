"""A float64 run of a float32 model: what its outputs would be without its rounding, but for about 1e-16.

The model's float32 weights are taken as exact numbers; everything computed from them is float64. onnx's reference
evaluator runs it, with Conv and pools by torch in float64: its own are loops over pixels in Python, minutes a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch.nn import functional as F

Array = npt.NDArray[Any]
FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE


def in_float64(source: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float64 copy: weights, constants, inputs, outputs, and what Cast makes, where they were float32.

    Raises:
        ValueError: a node asks for float32 in another way, or has a subgraph.
    """
    model = onnx.ModelProto()
    model.CopyFrom(source)
    graph = model.graph
    for tensor in graph.initializer:
        widen(tensor)
    for port in (*graph.input, *graph.output, *graph.value_info):
        if port.type.tensor_type.elem_type == FLOAT:
            port.type.tensor_type.elem_type = DOUBLE
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                widen(attribute.t)
            elif attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = DOUBLE
            elif attribute.name in ("dtype", "value_float", "value_floats", "body", "then_branch", "else_branch"):
                raise ValueError(f"{node.op_type} {node.name!r} has {attribute.name}.")
    return model


def widen(tensor: TensorProto) -> None:
    """Make a float32 tensor float64, in place; leave any other."""
    if tensor.data_type == FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def run_in_float64(source: onnx.ModelProto, inputs: dict[str, Array]) -> dict[str, Array]:
    """Return the outputs, in float64, of a float32 model; the inputs are widened like its weights.

    Raises:
        ValueError: some value of the graph was not computed in float64.
    """
    model = in_float64(source)
    names = [port.name for port in model.graph.output]
    others = {name for node in model.graph.node for name in node.output if name} - set(names)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(others))
    evaluator = ReferenceEvaluator(model, new_ops=[AveragePool, BatchNormalization, Conv, MaxPool])
    wide = {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in inputs.items()}
    values = dict(zip(evaluator.output_names, evaluator.run(None, wide), strict=True))
    if narrow := [name for name, value in values.items() if np.asarray(value).dtype in (np.float16, np.float32)]:
        raise ValueError(f"{narrow[0]!r} and {len(narrow) - 1} other values were not computed in float64.")
    return {name: values[name] for name in names}


class Conv(OpRun):
    """Conv over any two axes, by torch."""

    def _run(self, x: Array, weight: Array, bias: Array | None = None, **attributes: Any) -> tuple[Array]:
        given = {name: value for name, value in attributes.items() if value is not None}
        require_numbers(given)
        result = F.conv2d(
            F.pad(as_torch(x), padding_of(given)),
            as_torch(weight),
            None if bias is None else as_torch(bias),
            stride=given.get("strides", (1, 1)),
            dilation=given.get("dilations", (1, 1)),
            groups=given.get("group", 1),
        )
        return (result.numpy(),)


class MaxPool(OpRun):
    """MaxPool over two axes, by torch; the last window may reach over the edge (`ceil_mode`)."""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array]:
        given = {name: value for name, value in attributes.items() if value is not None}
        require_numbers(given, dilations=[1, 1], storage_order=0)
        padded = F.pad(as_torch(x), padding_of(given), value=-np.inf)
        kernel, strides = given["kernel_shape"], given.get("strides", [1, 1])
        return (F.max_pool2d(padded, kernel, strides, ceil_mode=bool(given.get("ceil_mode", 0))).numpy(),)


class AveragePool(OpRun):
    """AveragePool over two axes without padding, by torch."""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array]:
        given = {name: value for name, value in attributes.items() if value is not None}
        require_numbers(given, dilations=[1, 1], pads=[0, 0, 0, 0], ceil_mode=0)
        return (F.avg_pool2d(as_torch(x), given["kernel_shape"], given.get("strides", [1, 1])).numpy(),)


class BatchNormalization(OpRun):
    """Inference, written as ONNX defines it."""

    def _run(self, x: Array, *parameters: Array, epsilon: float = 1e-5, **_: Any) -> tuple[Array]:
        scale, shift, mean, var = (array.reshape(-1, *[1] * (x.ndim - 2)) for array in parameters)
        return ((x - mean) / np.sqrt(var + epsilon) * scale + shift,)


def as_torch(array: Array) -> torch.Tensor:
    """Return a tensor of the same numbers; torch warns of arrays that cannot be written, as weights from a file are."""
    return torch.from_numpy(np.require(array, requirements="W"))


def padding_of(attributes: dict[str, Any]) -> list[int]:
    """Return `pads`, which ONNX gives as all begins and all ends, as torch wants it: begin and end, last axis first."""
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    return [left, right, top, bottom]


def require_numbers(attributes: dict[str, Any], **allowed: Any) -> None:
    """Raise ValueError for padding by name, and for any of `allowed` that has another value."""
    for name, value in {"auto_pad": "NOTSET", **allowed}.items():
        if attributes.get(name, value) != value:
            raise ValueError(f"{name} is {attributes[name]!r}, not {value!r}.")


def check_against_onnx() -> None:
    """Compare the operators above with onnx's own on small random inputs, in float64.

    Raises:
        AssertionError: one of them differs by more than 1e-12.
    """
    rng = np.random.default_rng(0)
    for op, arrays, attributes in cases(rng):
        names = [f"x{index}" for index in range(len(arrays))]
        ports = [helper.make_tensor_value_info(name, DOUBLE, None) for name in names]
        result = helper.make_tensor_value_info("y", DOUBLE, None)
        graph = helper.make_graph([helper.make_node(op.__name__, names, ["y"], **attributes)], "case", ports, [result])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        inputs = dict(zip(names, arrays, strict=True))
        [wanted], [got] = (
            map(np.asarray, ReferenceEvaluator(model, new_ops=ops).run(None, inputs)) for ops in ([], [op])
        )
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12, err_msg=f"{op.__name__} {attributes}")


def cases(rng: np.random.Generator) -> Iterator[tuple[type[OpRun], Sequence[Array], dict[str, Any]]]:
    """Yield an operator, its inputs and its attributes."""
    x = rng.standard_normal((2, 4, 9, 9))
    weight, depthwise, bias = (rng.standard_normal(shape) for shape in ((6, 2, 3, 3), (4, 1, 3, 3), (6,)))
    yield Conv, (x, weight, bias), {"group": 2, "pads": [1, 0, 2, 1], "strides": [2, 1]}
    yield Conv, (x, depthwise), {"group": 4, "dilations": [2, 2], "pads": [2, 2, 2, 2]}
    yield MaxPool, (x,), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    yield MaxPool, (x[..., :8, :8],), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
    yield AveragePool, (x,), {"kernel_shape": [2, 2], "strides": [2, 2], "count_include_pad": 1}
    yield BatchNormalization, (x, *rng.uniform(0.5, 1.5, (4, 4))), {}

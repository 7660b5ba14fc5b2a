"""Small ONNX models for the tests of the fold, and what they compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from normfold.export.fold.fold import fold
from normfold.export.fold.report import FoldReport

Shape = Sequence[int | str]


def model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray],
    opset: int = 17,
    dtype: Any = np.float64,
) -> onnx.ModelProto:
    """Make a checked model; inputs are of `dtype`, outputs have the shapes that inference finds."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(made)
    onnx.checker.check_model(inferred)
    return inferred


def batchnorm(source: str, result: str, name: str = "bn", **attributes: Any) -> NodeProto:
    """Make a BatchNormalization node whose parameters are called NAME.scale and so on."""
    parameters = [f"{name}.{field}" for field in ("scale", "shift", "mean", "var")]
    return helper.make_node("BatchNormalization", [source, *parameters], [result], name=name, **attributes)


def statistics(rng: np.random.Generator, channels: int, name: str = "bn", dtype: Any = np.float64) -> dict[str, Any]:
    """Make parameters as training leaves them: some scales negative, one zero, one variance tiny."""
    scale = rng.uniform(0.5, 1.5, channels) * np.where(rng.random(channels) < 0.3, -1, 1)
    var = rng.uniform(0.5, 2.0, channels)
    if channels > 2:
        scale[0], var[1] = 0.0, 1e-7
    fields = {"scale": scale, "shift": rng.normal(size=channels), "mean": rng.normal(size=channels), "var": var}
    return {f"{name}.{field}": array.astype(dtype) for field, array in fields.items()}


IMAGE = {"x": ["n", 2, 4, 4]}
"""Input of what `conv_batchnorm` makes."""


def conv_batchnorm(rng: np.random.Generator, **changes: Any) -> tuple[list[NodeProto], dict[str, Any]]:
    """Make the nodes x -> Conv -> h -> BatchNormalization -> y, and their constants."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"], name="conv"), batchnorm("h", "y", **changes)]
    return nodes, {"w": rng.normal(size=(3, 2, 1, 1))} | statistics(rng, 3)


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Make two rows of IMAGE."""
    return {"x": rng.normal(size=(2, 2, 4, 4))}


def folded(source: onnx.ModelProto) -> tuple[onnx.ModelProto, FoldReport]:
    """Fold a copy of a model, and check the result."""
    working = ir.from_proto(source)
    report = fold(working)
    result = ir.to_proto(working)
    onnx.checker.check_model(result, full_check=True)
    return result, report


class BatchNormalization(OpRun):
    """Inference by its definition: below opset 14, the evaluator's own normalises by the batch."""

    def _run(self, x: Any, scale: Any, shift: Any, mean: Any, var: Any, epsilon: float = 1e-5, **_: Any) -> tuple[Any]:
        shape = (-1, *[1] * (x.ndim - 2))
        normal = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + epsilon)
        return ((scale.reshape(shape) * normal + shift.reshape(shape)).astype(x.dtype),)


def run64(source: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a float64 model through onnx's reference evaluator."""
    return list(ReferenceEvaluator(source, new_ops=[BatchNormalization]).run(None, dict(feeds)))


def run32(source: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a float32 model through ONNX Runtime, as it is written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(source.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def assert_same(source: onnx.ModelProto, result: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> None:
    """Check that two models compute the same: float64 to 1e-10, float32 to 1e-5, relative to the largest output."""
    double = all(array.dtype == np.float64 for array in feeds.values())
    run, allowed = (run64, 1e-10) if double else (run32, 1e-5)
    assert [output.name for output in source.graph.output] == [output.name for output in result.graph.output]
    for wanted, got in zip(run(source, feeds), run(result, feeds), strict=True):
        assert wanted.shape == got.shape
        assert np.abs(wanted - got).max(initial=0.0) <= allowed * max(1.0, np.abs(wanted).max(initial=0.0))


def operators(source: onnx.ModelProto) -> list[str]:
    """Return the operator types in graph order."""
    return [node.op_type for node in source.graph.node]

"""Several nodes read one value: the layer before absorbs one BatchNormalization, the others compensate."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, run32, run64, statistics

CHANNELS = 5


def parameters(rng: np.random.Generator, name: str, **fields: Any) -> dict[str, np.ndarray]:
    """Return parameters of which no scale is near zero, unless `fields` say so; one is negative."""
    made = {
        "scale": rng.uniform(0.5, 1.5, CHANNELS) * np.array([1, -1, 1, 1, 1]),
        "shift": rng.normal(size=CHANNELS),
        "mean": rng.normal(size=CHANNELS),
        "var": rng.uniform(0.5, 2, CHANNELS),
    } | fields
    return {f"{name}.{field}": np.asarray(array) for field, array in made.items()}


def several(count: int, dtype: Any = np.float64, **fields: Any) -> onnx.ModelProto:
    """Make x -> Conv -> c, and `count` BatchNormalization nodes that read c; `fields` are parameters of the first."""
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1] * 4)]
    constants = {"w": rng.normal(size=(CHANNELS, 3, 3, 3))}
    for place in range(count):
        nodes.append(batchnorm("c", f"n{place}", f"bn{place}"))
        nodes.append(helper.make_node("Relu" if place else "Sigmoid", [f"n{place}"], [f"y{place}"]))
        constants |= parameters(rng, f"bn{place}", **({} if place else fields))
    constants = {name: array.astype(dtype) for name, array in constants.items()}
    outputs = [f"y{place}" for place in range(count)]
    return model(nodes, {"x": ["n", 3, 6, "width"]}, outputs, constants, dtype=dtype)


def rows(dtype: Any = np.float64) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(size=(2, 3, 6, 7)).astype(dtype)}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_layer_absorbs_one_of_several(count: int, dtype: Any) -> None:
    source = several(count, dtype)

    result, report = folded(source)

    assert operators(result).count("BatchNormalization") == count - 1
    assert len(result.graph.node) == len(source.graph.node) - 1
    assert [entry.outcome.value for entry in report.entries].count("folded back") == 1
    assert_same(source, result, rows(dtype))


@pytest.mark.parametrize("field", [{"scale": [1, -1, 0, 1, 1]}, {"scale": [1, -1, 1e-9, 1, 1]}, {"shift": [1e4] * 5}])
def test_batchnorm_with_a_small_gain_is_not_divided_by(field: dict[str, Any]) -> None:
    """The second goes in its place, from the third on nothing is gained: its own gains are not small."""
    source = several(2, np.float32, **field)

    result, report = folded(source)

    assert [entry.outcome.value for entry in report.entries] == ["kept", "folded back"]
    assert_same(source, result, rows(np.float32))


def test_batchnorms_with_small_gains_are_all_kept() -> None:
    source = several(2, np.float64, scale=[1, -1, 0, 1, 1])
    (scale,) = [one for one in source.graph.initializer if one.name == "bn1.scale"]
    scale.CopyFrom(onnx.numpy_helper.from_array(np.array([0.0, 1, 1, 1, 1]), "bn1.scale"))

    result, report = folded(source)

    assert report.batchnorm_after == 2
    assert {entry.reason_codes[0] for entry in report.entries} == {"other-readers"}
    assert result == folded(result)[0]


def transition(rng: np.random.Generator, **fields: Any) -> onnx.ModelProto:
    """Make a transition of a DenseNet: bn0 reads its output, and bn1 a Concat of it; `fields` are those of bn0."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["c"], name="transition"),
        helper.make_node("AveragePool", ["c"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        batchnorm("p", "n0", "bn0"),
        helper.make_node("Relu", ["n0"], ["r0"]),
        helper.make_node("Conv", ["r0", "v"], ["c0"], pads=[1] * 4),
        helper.make_node("Concat", ["p", "c0"], ["d"], axis=1),
        batchnorm("d", "n1", "bn1"),
        helper.make_node("Relu", ["n1"], ["y"]),
    ]
    constants = {"w": rng.normal(size=(CHANNELS, 3, 1, 1)), "v": rng.normal(size=(2, CHANNELS, 3, 3))}
    constants |= parameters(rng, "bn0", **fields) | statistics(rng, CHANNELS + 2, "bn1")
    return model(nodes, {"x": ["n", 3, 6, 8]}, ["y"], constants)


def test_transition_of_a_densenet_absorbs_the_first_batchnorm_behind_it() -> None:
    rng = np.random.default_rng(5)
    source = transition(rng)

    result, report = folded(source)

    assert [entry.outcome.value for entry in report.entries] == ["folded back", "kept"]
    assert report.entries[0].into == ("transition",)
    assert len(result.graph.node) == len(source.graph.node) - 1
    assert_same(source, result, {"x": rng.normal(size=(2, 3, 6, 8))})


def test_batchnorm_that_compensates_for_small_scales_has_no_large_shift() -> None:
    """Shift and mean would cancel, in float16 to few digits: where they would, the mean moves, and the shift stays."""
    rng = np.random.default_rng(5)
    source = transition(rng, scale=[0.01, -0.2, 3, 0.1, 0.02], shift=[0.01, 0.1, -1, 0, -0.02])
    before = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in source.graph.initializer}

    result, report = folded(source)

    assert [entry.outcome.value for entry in report.entries] == ["folded back", "kept"]
    (norm,) = (node for node in result.graph.node if node.op_type == "BatchNormalization")
    after = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    assert np.abs(after[norm.input[2]]).max() < 2 * np.abs(before["bn1.shift"]).max()
    assert_same(source, result, {"x": rng.normal(size=(2, 3, 6, 8))})


def test_layer_that_reads_the_value_too_compensates() -> None:
    rng = np.random.default_rng(6)
    source = several(1)
    source.graph.node.append(helper.make_node("Conv", ["c", "v"], ["z"], name="other"))
    source.graph.output.append(onnx.ValueInfoProto(name="z"))
    source.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=(2, CHANNELS, 2, 2)), "v"))
    source = onnx.shape_inference.infer_shapes(source)

    result, report = folded(source)

    assert operators(result) == ["Conv", "Sigmoid", "Conv"]
    assert report.batchnorm_after == 0
    assert_same(source, result, rows())


@pytest.mark.parametrize("reader", ["output", "node", "subgraph"])
def test_value_that_something_else_reads_keeps(reader: str) -> None:
    source = several(2)
    if reader == "output":
        source.graph.output.append(onnx.ValueInfoProto(name="c"))
    elif reader == "node":
        source.graph.node.append(helper.make_node("Tanh", ["c"], ["z"]))
        source.graph.output.append(onnx.ValueInfoProto(name="z"))
    else:
        branches: dict[str, Any] = {
            f"{name}_branch": helper.make_graph(
                [helper.make_node(op_type, ["c"], [name])],
                name,
                [],
                [helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None)],
            )
            for name, op_type in (("then", "Tanh"), ("else", "Sin"))
        }
        source.graph.input.append(helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, []))
        source.graph.node.append(helper.make_node("If", ["flag"], ["z"], **branches))
        source.graph.output.append(onnx.ValueInfoProto(name="z"))

    _, report = folded(onnx.shape_inference.infer_shapes(source))

    assert report.batchnorm_after == 2


def test_batchnorms_without_a_layer_before_them_are_as_they_were() -> None:
    source = several(2)
    del source.graph.node[0]
    source.graph.node.insert(0, helper.make_node("Softplus", ["x"], ["c"]))
    source.graph.input[0].type.tensor_type.shape.dim[1].dim_value = CHANNELS

    result, report = folded(source)

    assert report.batchnorm_after == 2
    inputs = {"x": np.random.default_rng(2).normal(size=(2, CHANNELS, 6, 7))}
    assert_same(source, result, inputs)


def test_rounding_errors_stay_below_what_verification_allows() -> None:
    """Against float64, the folded float32 network errs by less than 1e-6 of the output's range."""
    source = several(2, np.float32)
    exact = several(2, np.float64)
    for one in exact.graph.initializer:
        (narrow,) = [other for other in source.graph.initializer if other.name == one.name]
        one.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(narrow).astype(np.float64), one.name))
    inputs = rows(np.float32)

    result, _ = folded(source)

    wanted = run64(exact, {"x": inputs["x"].astype(np.float64)})
    for right, got in zip(wanted, run32(result, inputs), strict=True):
        assert np.abs(right - got).max() <= 1e-6 * (right.max() - right.min())

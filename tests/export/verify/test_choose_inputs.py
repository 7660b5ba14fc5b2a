"""Inputs on which an output is constant prove nothing: others are tried, and if none helps, that is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from normfold.export.verify.inputs import Distribution
from normfold.export.verify.runner import Runner
from normfold.export.verify.verify import verify
from tests.support.onnx_models import model


def threshold(over: float, slope: float = 1.0) -> onnx.ModelProto:
    """Make y = slope * max(x - over, 0): constant on inputs that are not large enough."""
    constants = {"over": np.array([over] * 4, np.float32), "slope": np.array(slope, np.float32)}
    nodes = [
        helper.make_node("Sub", ["x", "over"], ["s"]),
        helper.make_node("Relu", ["s"], ["r"]),
        helper.make_node("Mul", ["r", "slope"], ["y"]),
    ]
    return model(nodes, {"x": ["n", 4]}, ["y"], constants, dtype=np.float32)


def lookup(rows: list[float]) -> onnx.ModelProto:
    """Make a table that is read by indices."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        "lookup",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.array(rows, np.float32), "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def pair(tmp_path: Path, original: onnx.ModelProto, other: onnx.ModelProto) -> tuple[Path, Path]:
    onnx.save(original, tmp_path / "a.onnx")
    onnx.save(other, tmp_path / "b.onnx")
    return tmp_path / "a.onnx", tmp_path / "b.onnx"


@pytest.mark.parametrize("over", [10.0, 100.0])
def test_inputs_are_larger_where_the_output_is_constant_on_normal_ones(over: float, tmp_path: Path) -> None:
    original, wrong = pair(tmp_path, threshold(over), threshold(over, slope=1.01))

    right, found = verify(original, original), verify(original, wrong)

    assert right.passes
    assert not right.outputs["y"].is_constant
    assert not right.notes
    assert not found.passes


def test_inputs_take_further_integers_where_the_output_is_constant_on_zero_and_one(tmp_path: Path) -> None:
    original, wrong = pair(tmp_path, lookup([5, 5, *range(8)]), lookup([5, 5, 0, 1, 2, 3, 4, 5, 6, 8]))

    assert verify(original, original).passes
    assert not verify(original, wrong).passes


def test_output_that_is_constant_on_all_inputs_is_named_and_no_failure(tmp_path: Path) -> None:
    original, other = pair(tmp_path, threshold(1e6), threshold(1e6, slope=2.0))

    found = verify(original, other)

    assert found.passes
    assert found.outputs["y"].is_constant
    (note,) = found.notes
    assert note.startswith("Output 'y' was constant: ")


def test_constant_that_differs_is_a_difference(tmp_path: Path) -> None:
    original, other = pair(tmp_path, lookup([5, 5]), lookup([6, 6]))

    found = verify(original, other)

    assert found.outputs["y"].is_constant
    assert not found.passes


def test_output_that_changes_is_not_constant(tmp_path: Path) -> None:
    original, _ = pair(tmp_path, threshold(0.0), threshold(0.0))

    assert not verify(original, original).notes


def test_inputs_of_the_user_are_not_called_constant(tmp_path: Path) -> None:
    original, _ = pair(tmp_path, threshold(10.0), threshold(10.0))
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 4), np.float32))

    found = verify(original, original, tmp_path / "x.npz")

    assert found.passes
    assert not found.outputs["y"].is_constant


def test_distributions_differ_in_range() -> None:
    normal = np.random.default_rng(0).standard_normal(1000)

    pixels = np.asarray(Distribution.PIXELS.from_normal(normal))
    assert 0 <= pixels.min() < 10 < 245 < pixels.max() <= 255
    assert np.asarray(Distribution.POSITIVE.from_normal(normal)).min() >= 0
    assert np.asarray(Distribution.LARGE.from_normal(normal)).std() > 20
    assert [each.limit for each in Distribution] == [2, 10, 100, 256]


def test_size_that_is_negative_is_free(tmp_path: Path) -> None:
    """Older exporters of Paddle wrote -1 for a free axis."""
    proto = threshold(0.0)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    del proto.graph.value_info[:]
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = -1
    onnx.save(proto, tmp_path / "a.onnx")

    assert Runner(tmp_path / "a.onnx").inputs[0].shape == (None, 4)
    assert verify(tmp_path / "a.onnx", tmp_path / "a.onnx").passes


def test_values_that_are_equal_pass_where_a_perturbation_changes_their_number(tmp_path: Path) -> None:
    """NonZero finds all of the normal ones; of those that are cut at 0, a perturbed 0 is found too."""
    source = model([helper.make_node("NonZero", ["x"], ["y"])], {"x": ["n", 40]}, ["y"], {}, dtype=np.float32)
    fewer = model(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("NonZero", ["r"], ["y"])],
        {"x": ["n", 40]},
        ["y"],
        {},
        dtype=np.float32,
    )
    original, other = pair(tmp_path, source, fewer)

    assert verify(original, original).passes
    assert not verify(original, other).passes

"""Constant expressions: what is computed, in which precision, and what stays a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from normfold.export.files.audit_file import audit_onnx
from normfold.export.fold.report import Outcome
from normfold.export.graph.constant_folding import expressions
from normfold.export.graph.constant_folding.simplify import compute_constants
from normfold.export.graph.inference import infer_shapes
from normfold.export.onnx_io.model_file import load_model, save_model
from tests.support.onnx_models import (
    IMAGE,
    assert_same,
    batchnorm,
    conv_batchnorm,
    folded,
    image_rows,
    model,
    operators,
    run32,
    statistics,
)
from tests.support.onnx_models import (
    save_model as save_proto,
)

node = helper.make_node


def conv_of(
    expression: list[NodeProto], constants: dict[str, Any], rng: np.random.Generator, opset: int = 17
) -> onnx.ModelProto:
    """Make x -> Conv -> BatchNormalization -> Relu, the Conv's weight `w` (8, 3, 3, 3) made by an expression."""
    nodes = [*expression, node("Conv", ["x", "w"], ["h"], name="conv"), batchnorm("h", "n"), node("Relu", ["n"], ["y"])]
    arrays = {name: np.asarray(array) for name, array in (constants | statistics(rng, 8)).items()}
    return model(nodes, {"x": ["n", 3, 6, "width"]}, ["y"], arrays, opset=opset)


def weight_norm() -> list[NodeProto]:
    return [
        node("Mul", ["v", "v"], ["square"]),
        node("ReduceSum", ["square", "axes"], ["sum"]),
        node("Sqrt", ["sum"], ["norm"]),
        node("Div", ["v", "norm"], ["unit"]),
        node("Mul", ["unit", "g"], ["w"]),
    ]


def standardised(training: bool) -> list[NodeProto]:
    """Make a weight standardised by a BatchNormalization, as NFNet, BiT and ResNetV2 are exported."""
    attributes: dict[str, Any] = {"training_mode": 1} if training else {}
    bn = batchnorm("rows", "normal", "std", **attributes)
    bn.output.extend(["new_mean", "new_var"] if training else [])
    return [node("Reshape", ["v", "flat"], ["rows"]), bn, node("Reshape", ["normal", "whole"], ["w"])]


def standard_constants(rng: np.random.Generator) -> dict[str, Any]:
    shapes = {"flat": np.array([1, 8, -1]), "whole": np.array([8, 3, 3, 3])}
    return {"v": rng.normal(size=(8, 3, 3, 3))} | shapes | statistics(rng, 8, "std")


def test_weight_norm_is_computed_and_takes_the_affine() -> None:
    rng = np.random.default_rng(0)
    constants = {"v": rng.normal(size=(8, 3, 3, 3)), "g": rng.normal(size=(8, 1, 1, 1)), "axes": np.array([1, 2, 3])}
    source = conv_of(weight_norm(), constants, rng)

    result, report = folded(source)

    assert operators(result) == ["Conv", "Relu"]
    assert report.batchnorm_after == 0
    assert {tensor.name for tensor in result.graph.initializer} == {"w", "conv.bias"}
    assert_same(source, result, {"x": rng.normal(size=(2, 3, 6, 7))})


@pytest.mark.slow
def test_weight_norm_of_large_weights_is_computed_when_the_file_is_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    shape = (256, 256, 3, 3)  # 2.4 MB: more than is held in memory
    constants = {
        "v": rng.normal(size=shape).astype(np.float32),
        "g": rng.uniform(0.5, 1, (256, 1, 1, 1)).astype(np.float32),
        "axes": np.array([1, 2, 3]),
    }
    nodes = [*weight_norm(), node("Conv", ["x", "w"], ["h"], name="conv"), batchnorm("h", "y")]
    source = model(
        nodes, {"x": ["n", 256, 3, 3]}, ["y"], constants | statistics(rng, 256, dtype=np.float32), dtype=np.float32
    )
    path = save_proto(source, tmp_path)

    result, _ = folded(source)

    assert operators(result) == ["Conv"]
    assert len(result.SerializeToString()) < path.stat().st_size
    assert_same(source, result, {"x": rng.normal(size=(1, 256, 3, 3)).astype(np.float32)})


@pytest.mark.parametrize(("training", "opset"), [(True, 17), (False, 17), (False, 13)])
def test_batchnorm_of_a_constant_is_a_constant(training: bool, opset: int) -> None:
    rng = np.random.default_rng(2)
    constants = standard_constants(rng)
    source = conv_of(standardised(training), constants, rng, opset)

    result, report = folded(source)

    assert operators(result) == ["Conv", "Relu"]
    assert [entry.outcome for entry in report.entries] == [Outcome.COMPUTED, Outcome.FOLDED_BACK]
    v = constants["v"].reshape(8, -1)
    mean, var = (v.mean(1), v.var(1)) if training else (constants["std.mean"], constants["std.var"])
    gain = constants["std.scale"] / np.sqrt(var + np.float32(1e-5))
    wanted = (v - mean[:, None]) * gain[:, None] + constants["std.shift"][:, None]
    twin = conv_of([], {"w": wanted.reshape(8, 3, 3, 3)}, np.random.default_rng(9))
    for name in ("bn.scale", "bn.shift", "bn.mean", "bn.var"):
        (ours,) = [one for one in twin.graph.initializer if one.name == name]
        (theirs,) = [one for one in source.graph.initializer if one.name == name]
        ours.CopyFrom(theirs)
    assert_same(twin, result, {"x": rng.normal(size=(2, 3, 6, 7))})


def test_batchnorm_of_a_constant_is_no_layer_of_an_audit(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    audit = audit_onnx(save_proto(conv_of(standardised(training=True), standard_constants(rng), rng), tmp_path))

    assert [layer.name for layer in audit.layers] == ["bn"]
    assert not [finding for finding in audit.findings if finding.layer == "std" or finding.code == "train-mode"]


def test_batchnorm_of_a_constant_whose_statistics_are_read_stays() -> None:
    rng = np.random.default_rng(4)
    expression = [*standardised(training=True), node("Identity", ["new_var"], ["kept"])]
    source = conv_of(expression, standard_constants(rng), rng)
    source.graph.output.append(helper.make_tensor_value_info("kept", TensorProto.DOUBLE, [8]))
    working = ir.from_proto(source)
    infer_shapes(working, afresh=True)

    compute_constants(working)

    assert sum(one.op_type == "BatchNormalization" for one in working.graph) == 2


def test_pads_from_constant_of_shape_are_computed() -> None:
    """As torch writes F.pad: the pads of the last axes first, with zeros for the others, then turned around."""
    rng = np.random.default_rng(5)
    integers = {
        name: np.array(value, np.int64)
        for name, value in {
            "pads": [1, 1, 1, 1],
            "four": [4],
            "rows": [-1, 2],
            "last": [-1],
            "first": [-(2**62)],
            "axis": [0],
            "back": [-1],
        }.items()
    }
    nodes = [
        node("ConstantOfShape", ["four"], ["zeros"], value=numpy_helper.from_array(np.zeros(1, np.int64))),
        node("Concat", ["pads", "zeros"], ["all"], axis=0),
        node("Reshape", ["all", "rows"], ["pairs"]),
        node("Slice", ["pairs", "last", "first", "axis", "back"], ["turned"]),
        node("Transpose", ["turned"], ["by_end"], perm=[1, 0]),
        node("Reshape", ["by_end", "last"], ["flat"]),
        batchnorm("x", "n"),
        node("Pad", ["n", "flat"], ["p"], mode="reflect"),
        node("Conv", ["p", "w"], ["y"], name="conv"),
    ]
    source = model(nodes, IMAGE, ["y"], integers | {"w": rng.normal(size=(3, 2, 3, 3))} | statistics(rng, 2))

    result, report = folded(source)

    assert operators(result) == ["Pad", "Conv"]
    assert report.batchnorm_after == 0
    assert_same(source, result, image_rows(rng))


def test_constant_nodes_are_initializers_everywhere() -> None:
    rng = np.random.default_rng(6)
    nodes, constants = conv_batchnorm(rng)
    constants["added"] = rng.normal(size=(1, 3, 1, 1))
    made = [
        node("Constant", [], [name], value=numpy_helper.from_array(array)) for name, array in sorted(constants.items())
    ]
    nodes[1].output[0] = "n"
    source = model([*made, *nodes, node("Add", ["n", "added"], ["y"])], IMAGE, ["y"], {})

    result, report = folded(source)

    assert operators(result) == ["Conv"]
    assert report.affines == 1
    assert_same(source, result, image_rows(rng))


def test_add_of_a_constant_node_of_high_rank_is_left() -> None:
    rng = np.random.default_rng(7)
    added = numpy_helper.from_array(rng.normal(size=(2, 4, 4)), "added")
    nodes = [
        node("Constant", [], ["added"], value=added),
        node("Add", ["x", "added"], ["a"]),
        node("Relu", ["a"], ["y"]),
    ]
    source = model(nodes, IMAGE, ["y"], {})

    result, _ = folded(source)

    assert operators(result) == ["Add", "Relu"]
    assert_same(source, result, image_rows(rng))


def test_large_constants_that_others_read_are_not_written_twice(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    table = rng.normal(size=(600, 600)).astype(np.float32)  # 1.4 MB
    nodes = [
        node("Transpose", ["table"], ["turned"], perm=[1, 0]),
        node("MatMul", ["x", "table"], ["h"]),
        node("MatMul", ["h", "turned"], ["y"]),
    ]
    path = save_proto(model(nodes, {"x": ["n", 600]}, ["y"], {"table": table}, dtype=np.float32), tmp_path)
    source = load_model(path)

    infer_shapes(source, afresh=True)
    compute_constants(source)
    save_model(source, tmp_path / "b.onnx")

    assert [one.op_type for one in source.graph] == ["Transpose", "MatMul", "MatMul"]
    assert (tmp_path / "b.onnx").stat().st_size < path.stat().st_size + 1000


@pytest.mark.parametrize("shared", [True, False])
def test_large_weight_behind_cast_and_transpose_takes_an_affine(shared: bool) -> None:
    rng = np.random.default_rng(13)
    constants: dict[str, Any] = {"table": rng.normal(size=(600, 600)).astype(np.float16)}  # 1.4 MB as float32
    nodes = [
        node("Cast", ["table"], ["wide"], to=TensorProto.FLOAT),
        node("Transpose", ["wide"], ["turned"], perm=[1, 0]),
        node("MatMul", ["x", "turned"], ["h"]),
        batchnorm("h", "n"),
        node("MatMul", ["n", "wide" if shared else "other"], ["y"]),
    ]
    constants |= {} if shared else {"other": rng.normal(size=(600, 2)).astype(np.float32)}
    constants |= statistics(rng, 600, dtype=np.float32)
    source = model(nodes, {"x": ["n", 600]}, ["y"], constants, dtype=np.float32)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert ("Cast" in operators(result)) == shared
    assert "Transpose" not in operators(result)
    assert_same(source, result, {"x": rng.normal(size=(2, 600)).astype(np.float32)})


def test_large_constant_of_two_results_stays_alone() -> None:
    table = np.random.default_rng(12).normal(size=(600, 600)).astype(np.float32)  # 1.4 MB
    nodes = [
        node("Neg", ["table"], ["a"]),
        node("Abs", ["table"], ["b"]),
        node("MatMul", ["x", "a"], ["h"]),
        node("MatMul", ["h", "b"], ["y"]),
    ]
    source = model(nodes, {"x": ["n", 600]}, ["y"], {"table": table}, dtype=np.float32)

    result, _ = folded(source)

    assert operators(result) == ["Neg", "Abs", "MatMul", "MatMul"]
    assert [tensor.name for tensor in result.graph.initializer] == ["table"]


def test_large_result_of_small_constants_stays_a_node() -> None:
    nodes = [
        node("ConstantOfShape", ["shape"], ["zeros"], value=numpy_helper.from_array(np.zeros(1, np.float32))),
        node("Add", ["x", "zeros"], ["y"]),
    ]
    source = model(nodes, {"x": [1, 1]}, ["y"], {"shape": np.array([600, 600])}, dtype=np.float32)

    result, _ = folded(source)

    assert operators(result) == ["ConstantOfShape", "Add"]
    assert len(result.SerializeToString()) < 1000


def test_expressions_over_more_bytes_than_the_bound_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "MAX_SOURCE_BYTES", 100)
    rng = np.random.default_rng(10)
    constants = {"v": rng.normal(size=(8, 3, 3, 3)), "g": rng.normal(size=(8, 1, 1, 1)), "axes": np.array([1, 2, 3])}

    _, report = folded(conv_of(weight_norm(), constants, rng))

    assert report.entries[0].reason_code is not None
    assert "its weight is computed" in (report.entries[0].reason or "")


def test_rounding_of_weights_is_done_in_their_own_dtype() -> None:
    """As fake quantisation: Round of a float32 quotient that lies on a half jumps if it is computed in float64."""
    between = np.array([0.5, 1.5, 2.5, 3.5], np.float32)
    scale = np.float32(0.1)
    nodes = [
        node("Div", ["v", "scale"], ["steps"]),
        node("Round", ["steps"], ["whole"]),
        node("Mul", ["whole", "scale"], ["w"]),
        node("Mul", ["x", "w"], ["y"]),
    ]
    source = model(nodes, {"x": ["n", 4]}, ["y"], {"v": between * scale, "scale": scale}, dtype=np.float32)

    result, _ = folded(source)

    assert operators(result) == ["Mul"]
    one = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(run32(source, {"x": one})[0], run32(result, {"x": one})[0])


@pytest.mark.parametrize("op_type", ["RandomNormal", "Bernoulli", "QuantizeLinear"])
def test_random_and_quantising_nodes_stay(op_type: str) -> None:
    constants = {"c": np.full(4, 0.5, np.float32), "scale": np.float32(0.1)}
    made = {
        "RandomNormal": [node("RandomNormal", [], ["r"], shape=[4])],
        "Bernoulli": [node("Bernoulli", ["c"], ["r"])],
        "QuantizeLinear": [
            node("QuantizeLinear", ["c", "scale"], ["q"]),
            node("DequantizeLinear", ["q", "scale"], ["r"]),
        ],
    }[op_type]
    source = model([*made, node("Add", ["x", "r"], ["y"])], {"x": ["n", 4]}, ["y"], constants, dtype=np.float32)

    result, _ = folded(source)

    assert op_type in operators(result)


def test_parts_of_a_constant_split_are_constants() -> None:
    rng = np.random.default_rng(11)
    nodes = [
        node("Split", ["both"], ["first", "second"], axis=0),
        node("Conv", ["x", "first"], ["a"], name="conv"),
        batchnorm("a", "b"),
        node("Conv", ["b", "second"], ["y"], pads=[0, 0, 0, 0]),
    ]
    constants = {"both": rng.normal(size=(4, 2, 1, 1))} | statistics(rng, 2)
    source = model(nodes, IMAGE, ["y"], constants)

    result, report = folded(source)

    assert set(operators(result)) == {"Conv"}
    assert report.batchnorm_after == 0
    assert_same(source, result, image_rows(rng))


def test_node_that_cannot_be_evaluated_stays_and_what_it_reads_is_computed() -> None:
    nodes = [
        node("Neg", ["c"], ["negative"]),
        node("Own", ["negative"], ["own"], domain="own"),
        node("Add", ["x", "own"], ["y"]),
    ]
    source = model([node("Add", ["x", "c"], ["y"])], {"x": ["n", 4]}, ["y"], {"c": np.ones(4)})
    del source.graph.node[:]
    source.graph.node.extend(nodes)
    source.opset_import.append(helper.make_opsetid("own", 1))
    working = ir.from_proto(source)
    infer_shapes(working, afresh=True)

    gone = compute_constants(working)

    assert [one.op_type for one in gone or []] == ["Neg"]
    assert [one.op_type for one in working.graph] == ["Own", "Add"]
    assert list(working.graph.initializers) == ["negative"]


def test_sizes_that_are_picked_from_a_shape_one_by_one_are_computed() -> None:
    """The channels of torch's channel shuffle are known, height and width are not."""
    rng = np.random.default_rng(0)
    numbers = range(4)
    nodes = [
        node("Conv", ["x", "w"], ["h"], name="conv"),
        node("Shape", ["h"], ["sizes"]),
        *(node("Gather", ["sizes", f"at{number}"], [f"g{number}"]) for number in numbers),
        node("Div", ["g1", "two"], ["half"]),
        *(node("Unsqueeze", [f"g{number}", "zero"], [f"u{number}"]) for number in (0, 2, 3)),
        node("Unsqueeze", ["half", "zero"], ["u1"]),
        node("Concat", ["u0", "groups", "u1", "u2", "u3"], ["first"], axis=0),
        node("Reshape", ["h", "first"], ["parts"]),
        node("Transpose", ["parts"], ["turned"], perm=[0, 2, 1, 3, 4]),
        node("Concat", ["u0", "all", "u2", "u3"], ["second"], axis=0),
        node("Reshape", ["turned", "second"], ["shuffled"]),
        batchnorm("shuffled", "y"),
    ]
    constants = {"w": rng.normal(size=(8, 2, 1, 1)), "two": np.array(2), "zero": np.array([0]), "all": np.array([-1])}
    constants |= {f"at{number}": np.array(number) for number in numbers} | {"groups": np.array([2])}
    source = model(nodes, {"x": ["n", 2, "h", "w"]}, ["y"], constants | statistics(rng, 8))

    result, _ = folded(source)

    assert "BatchNormalization" not in operators(result)
    assert "Div" not in operators(result)
    assert_same(source, result, {"x": rng.normal(size=(2, 2, 3, 4))})

"""Files from other exporters with a detail that a wrong fold would miss, each by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from normfold.export.errors import TrainingModeError
from normfold.export.fold.fold import fold
from normfold.export.fold.report import Outcome
from normfold.export.onnx_io.model_file import load_model
from tests.support.onnx_models import (
    IMAGE,
    assert_same,
    batchnorm,
    conv_batchnorm,
    folded,
    image_rows,
    model,
    operators,
    statistics,
)


def test_dropout_that_may_drop_rejects_an_affine() -> None:
    rng = np.random.default_rng(5)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("Dropout", ["h", "ratio", "training"], ["d"], name="drop"),
        batchnorm("d", "y"),
    ]
    constants = {"w": rng.normal(size=(3, 2, 1, 1)), "ratio": np.float64(0.5), "training": np.array(True)}
    source = model(nodes, IMAGE, ["y"], constants | statistics(rng, 3))

    _, report = folded(source)

    assert report.entries[0].reason_code == "training-mode/graph-output"


def test_parameters_may_be_constant_nodes() -> None:
    rng = np.random.default_rng(6)
    nodes, constants = conv_batchnorm(rng)
    made = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
        for name, array in constants.items()
    ]
    source = model([*made, *nodes], IMAGE, ["y"], {})

    result, _ = folded(source)

    assert operators(result) == ["Conv"]
    assert_same(source, result, image_rows(rng))


def test_parameters_may_stand_behind_identity() -> None:
    rng = np.random.default_rng(7)
    nodes, constants = conv_batchnorm(rng)
    constants = {f"{name}.raw": array for name, array in constants.items()}
    copies = [helper.make_node("Identity", [name], [name.removesuffix(".raw")]) for name in constants]
    source = model([*copies, *nodes], IMAGE, ["y"], constants)

    result, _ = folded(source)

    assert operators(result) == ["Conv"]
    assert_same(source, result, image_rows(rng))


@pytest.mark.parametrize("name", ["w", "bn.var"])
def test_an_initializer_that_a_caller_may_override_is_left_alone(name: str) -> None:
    rng = np.random.default_rng(8)
    nodes, constants = conv_batchnorm(rng)
    source = model(nodes, {**IMAGE, name: constants[name].shape}, ["y"], constants)

    result, report = folded(source)

    assert "BatchNormalization" in operators(result)
    assert "overridden by the caller" in (report.entries[0].reason or "")


def condition() -> list[onnx.NodeProto]:
    """Make the nodes of a condition that is known only when the model runs."""
    return [
        helper.make_node("ReduceMax", ["x"], ["max"], keepdims=0),
        helper.make_node("Less", ["limit", "max"], ["which"]),
    ]


def test_a_value_that_a_subgraph_captures_keeps_its_content() -> None:
    rng = np.random.default_rng(10)
    nodes, constants = conv_batchnorm(rng)
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op_type, ["h"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None)],
        )
        for name, op_type in (("then", "Relu"), ("else", "Neg"))
    }
    nodes += [*condition(), helper.make_node("If", ["which"], ["out"], **branches)]
    source = model(nodes, IMAGE, ["out", "y"], constants | {"limit": np.array(-9.0)})

    result, report = folded(source)

    assert report.entries[0].reason_code == "other-readers/graph-output"
    assert_same(source, result, image_rows(rng))


def test_a_batchnorm_that_a_subgraph_reads_is_kept() -> None:
    rng = np.random.default_rng(26)
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Conv", ["n", "w"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None)],
        )
        for name in ("then", "else")
    }
    nodes = [batchnorm("x", "n"), *condition(), helper.make_node("If", ["which"], ["out"], **branches)]
    constants = {"w": rng.normal(size=(3, 2, 1, 1)), "limit": np.array(-9.0)} | statistics(rng, 2)
    source = model(nodes, IMAGE, ["out"], constants)

    result, report = folded(source)

    assert report.entries[0].reason_code == "graph-input/subgraph"
    assert_same(source, result, image_rows(rng))


def test_a_branch_that_is_always_taken_is_folded_with_the_rest() -> None:
    rng = np.random.default_rng(27)
    nodes, constants = conv_batchnorm(rng)
    branches = [
        helper.make_graph(body, name, [], [helper.make_tensor_value_info(result, TensorProto.DOUBLE, None)])
        for name, body, result in (
            ("then", nodes, "y"),
            ("else", [helper.make_node("Conv", ["x", "w"], ["e"])], "e"),
        )
    ]
    node = helper.make_node("If", ["which"], ["out"], then_branch=branches[0], else_branch=branches[1])
    source = model([node], IMAGE, ["out"], constants | {"which": np.array(True)})

    result, report = folded(source)

    assert operators(result) == ["Conv"]
    assert report.batchnorm_after == 0
    assert_same(source, result, image_rows(rng))


def test_constants_that_an_exporter_spelt_out_are_computed() -> None:
    """As torch writes a Conv without a bias: zeros, expanded and cast."""
    rng = np.random.default_rng(28)
    constants = {"w": rng.normal(size=(3, 2, 1, 1)), "zero": np.array(0, np.float32), "three": np.array([3])}
    nodes = [
        helper.make_node("Expand", ["zero", "three"], ["zeros"]),
        helper.make_node("CastLike", ["zeros", "x"], ["bias"]),
        helper.make_node("Conv", ["x", "w", "bias"], ["h"], name="conv"),
        batchnorm("h", "y"),
    ]
    source = model(nodes, IMAGE, ["y"], constants | statistics(rng, 3))

    result, report = folded(source)

    assert operators(result) == ["Conv"]
    assert report.entries[0].into == ("conv",)
    assert_same(source, result, image_rows(rng))


def test_functions_are_inlined_first() -> None:
    rng = np.random.default_rng(11)
    nodes, constants = conv_batchnorm(rng)
    block = helper.make_function("local", "Block", ["x", *constants], ["y"], nodes, [helper.make_opsetid("", 17)])
    source = model(nodes, IMAGE, ["y"], constants)
    source.functions.append(block)
    source.opset_import.append(helper.make_opsetid("local", 1))
    del source.graph.node[:]
    source.graph.node.append(helper.make_node("Block", ["x", *constants], ["y"], domain="local"))

    result, report = folded(source)

    assert operators(result) == ["Conv"]
    assert report.batchnorm_before == 1
    assert_same(source, result, image_rows(rng))


def test_an_operator_of_another_domain_is_kept_and_the_rest_folded() -> None:
    rng = np.random.default_rng(12)
    nodes, constants = conv_batchnorm(rng)
    custom = helper.make_node("Conv", ["y", "w2"], ["c"], name="custom", domain="com.example")
    nodes += [custom, batchnorm("c", "z", "bn2")]
    constants |= {"w2": rng.normal(size=(3, 3, 1, 1))} | statistics(rng, 3, "bn2")
    source = model([helper.make_node("Relu", ["x"], ["z"])], IMAGE, ["z"], constants)
    del source.graph.node[:]
    source.graph.node.extend(nodes)
    source.opset_import.append(helper.make_opsetid("com.example", 1))
    for name in ("h", "y", "c"):
        source.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["n", 3, 4, 4]))
    working = ir.from_proto(source)

    report = fold(working)

    assert [node.op_type for node in working.graph] == ["Conv", "Conv", "BatchNormalization"]
    assert report.entries[1].reason_code == "operator/graph-output"


def test_training_mode_is_an_error_that_names_the_node() -> None:
    nodes, constants = conv_batchnorm(np.random.default_rng(13), training_mode=0)
    source = model(nodes, IMAGE, ["y"], constants)
    source.graph.node[1].attribute[0].i = 1

    with pytest.raises(TrainingModeError, match="'bn' is in training mode"):
        folded(source)


def test_statistics_that_were_never_set_are_a_warning() -> None:
    nodes, constants = conv_batchnorm(np.random.default_rng(14))
    constants |= {"bn.mean": np.zeros(3), "bn.var": np.ones(3)}

    _, report = folded(model(nodes, IMAGE, ["y"], constants))

    assert report.batchnorm_after == 0
    assert len(report.warnings) == 1
    assert "'bn'" in report.warnings[0]


def test_parameters_of_different_lengths_are_kept() -> None:
    nodes, constants = conv_batchnorm(np.random.default_rng(29))
    source = model(nodes, IMAGE, ["y"], constants)
    mean = next(tensor for tensor in source.graph.initializer if tensor.name == "bn.mean")
    mean.CopyFrom(numpy_helper.from_array(np.zeros(2), "bn.mean"))

    assert fold(ir.from_proto(source)).kept == {"parameter-mismatch": 1}


def test_a_batchnorm_of_one_axis_is_kept() -> None:
    source = model([batchnorm("x", "y")], {"x": [3, 3]}, ["y"], statistics(np.random.default_rng(30), 3))
    for value in (source.graph.input[0], source.graph.output[0]):
        del value.type.tensor_type.shape.dim[1:]

    assert fold(ir.from_proto(source)).kept == {"unknown-shape": 1}


def test_groups_that_do_not_divide_the_channels_are_kept() -> None:
    rng = np.random.default_rng(31)
    for op_type, weight, channels in (("Conv", (3, 2, 1, 1), 4), ("ConvTranspose", (3, 2, 1, 1), 3)):
        nodes = [batchnorm("x", "n"), helper.make_node(op_type, ["n", "w"], ["y"], group=1)]
        constants = {"w": rng.normal(size=(weight[0], channels, 1, 1) if op_type == "Conv" else weight)}
        source = model(nodes, {"x": ["n", channels, 4, 4]}, ["y"], constants | statistics(rng, channels))
        source.graph.node[1].attribute[0].i = 2

        assert fold(ir.from_proto(source)).entries[0].reason_code == "graph-input/invalid-group"


def test_a_float16_weight_that_would_overflow_is_kept() -> None:
    rng = np.random.default_rng(32)
    nodes, _ = conv_batchnorm(rng)
    constants = {"w": np.full((3, 2, 1, 1), 6e4, np.float16)} | statistics(rng, 3, dtype=np.float32)
    source = model(nodes, IMAGE, ["y"], constants, dtype=np.float16)

    assert fold(ir.from_proto(source)).entries[0].reason_code == "overflow/graph-output"


@pytest.mark.parametrize("written", ["value_floats", "cast"])
def test_parameters_may_be_lists_of_floats_or_casts(written: str) -> None:
    rng = np.random.default_rng(33)
    nodes, constants = conv_batchnorm(rng)
    constants = {name: array.astype(np.float32) for name, array in constants.items()}
    mean = constants.pop("bn.mean")
    if written == "cast":
        constants["bn.wide"] = mean.astype(np.float64)
        nodes.insert(0, helper.make_node("Cast", ["bn.wide"], ["bn.mean"], to=TensorProto.FLOAT))
    else:
        nodes.insert(0, helper.make_node("Constant", [], ["bn.mean"], value_floats=mean.tolist()))
    source = model(nodes, IMAGE, ["y"], constants, dtype=np.float32)

    result, _ = folded(source)

    assert operators(result) == ["Conv"]
    assert_same(source, result, {"x": rng.normal(size=(2, 2, 4, 4)).astype(np.float32)})


def test_the_standard_domain_has_two_spellings(tmp_path: Path) -> None:
    nodes, constants = conv_batchnorm(np.random.default_rng(34))
    source = model(nodes, IMAGE, ["y"], constants)
    source.opset_import[0].domain = "ai.onnx"
    onnx.save(source, tmp_path / "a.onnx")

    assert fold(load_model(tmp_path / "a.onnx")).batchnorm_after == 0


def test_statistics_that_are_not_finite_keep_the_node() -> None:
    nodes, constants = conv_batchnorm(np.random.default_rng(15))
    constants["bn.var"][1] = -1.0

    _, report = folded(model(nodes, IMAGE, ["y"], constants))

    assert report.kept == {"statistics-not-finite": 1}


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 14, 15, 17, 20, 23])
def test_fold_works_in_every_opset(opset: int) -> None:
    rng = np.random.default_rng(16)
    nodes, constants = conv_batchnorm(rng)
    constants = {name: array.astype(np.float32) for name, array in constants.items()}
    source = model(nodes, IMAGE, ["y"], constants, opset=opset, dtype=np.float32)

    result, _ = folded(source)

    assert operators(result) == ["Conv"]
    assert_same(source, result, {"x": rng.normal(size=(2, 2, 4, 4)).astype(np.float32)})


def test_statistics_per_position_are_kept() -> None:
    nodes, constants = conv_batchnorm(np.random.default_rng(17), spatial=0)
    shape = (3, 4, 4)
    constants |= {f"bn.{field}": np.ones(shape) for field in ("scale", "shift", "mean", "var")}
    working = ir.from_proto(model(nodes, {"x": [1, 2, 4, 4]}, ["y"], constants, opset=8))

    assert fold(working).kept == {"not-spatial": 1}


def test_training_outputs_in_use_are_training_mode_before_opset_14() -> None:
    nodes, constants = conv_batchnorm(np.random.default_rng(18))
    nodes[1].output.extend(["m", "v", "sm", "sv"])
    source = model(nodes, IMAGE, ["y"], constants, opset=9)
    source.graph.output.append(helper.make_tensor_value_info("m", TensorProto.DOUBLE, [3]))

    with pytest.raises(TrainingModeError):
        fold(ir.from_proto(source))


def test_float32_statistics_fold_into_float16_weights() -> None:
    rng = np.random.default_rng(19)
    nodes, _ = conv_batchnorm(rng)
    weight = rng.normal(size=(3, 2, 1, 1)).astype(np.float16)
    constants = {"w": weight} | statistics(rng, 3, dtype=np.float32)
    source = model(nodes, IMAGE, ["y"], constants, dtype=np.float16)

    result, _ = folded(source)

    assert operators(result) == ["Conv"]
    assert {tensor.data_type for tensor in result.graph.initializer} == {TensorProto.FLOAT16}


def test_equal_batchnorms_that_stay_are_reported_as_one() -> None:
    nodes = [batchnorm("x", "a"), batchnorm("x", "b"), helper.make_node("Relu", ["a"], ["c"]),
             helper.make_node("Tanh", ["b"], ["d"]), helper.make_node("Add", ["c", "d"], ["y"])]  # fmt: skip
    nodes[1].name = "second"
    source = model(nodes, IMAGE, ["y"], statistics(np.random.default_rng(30), 2))

    result, report = folded(source)

    assert operators(result) == ["BatchNormalization", "Relu", "Tanh", "Add"]
    assert [(entry.node, entry.outcome, entry.into) for entry in report.entries] == [
        ("bn", Outcome.KEPT, ()),
        ("second", Outcome.MERGED, ("bn",)),
    ]


@pytest.mark.parametrize("op_type", ["Identity", "Relu"])
def test_outputs_that_are_equal_are_written_the_same_when_folded_again(op_type: str) -> None:
    nodes = [helper.make_node(op_type, ["x"], [name], name=name) for name in ("a", "b")]
    source = model(nodes, IMAGE, ["a", "b"], {})

    once, _ = folded(source)
    twice, _ = folded(once)

    assert [node.SerializeToString() for node in once.graph.node] == [
        node.SerializeToString() for node in twice.graph.node
    ]
    assert [each.name for each in once.graph.output] == ["a", "b"]


@pytest.mark.parametrize("equal", [True, False])
def test_equal_batchnorms_of_one_layer_are_joined_before_it_absorbs_one(equal: bool) -> None:
    rng = np.random.default_rng(31)
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
             batchnorm("h", "a"), batchnorm("h", "b", "other"),
             helper.make_node("Relu", ["a"], ["c"]), helper.make_node("Tanh", ["b"], ["d"]),
             helper.make_node("Add", ["c", "d"], ["y"])]  # fmt: skip
    first = statistics(rng, 3)
    second = statistics(rng, 3) if not equal else first
    copies = {name.replace("bn.", "other."): array for name, array in second.items()}
    source = model(nodes, IMAGE, ["y"], {"w": rng.normal(size=(3, 2, 1, 1)), **first, **copies})

    result, report = folded(source)

    assert ("BatchNormalization" in operators(result)) == (not equal)
    assert (report.entries[1].outcome is Outcome.MERGED) == equal
    assert_same(source, result, image_rows(rng))


@pytest.mark.parametrize(("op_type", "expected"), [("Neg", ["Neg", "Add"]), ("Bernoulli", ["Bernoulli"] * 2 + ["Add"])])
def test_equal_nodes_are_joined_but_not_if_they_draw_lots(op_type: str, expected: list[str]) -> None:
    nodes = [helper.make_node(op_type, ["x"], [name]) for name in ("a", "b")]
    source = model([*nodes, helper.make_node("Add", ["a", "b"], ["y"])], IMAGE, ["y"], {})

    result, _ = folded(source)

    assert operators(result) == expected

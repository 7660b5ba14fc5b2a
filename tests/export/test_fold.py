"""The pass as a whole: what may change, what must not, and what the report says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.errors import FoldError, TrainingModeError
from export.fold import fold
from export.onnx_file import load_model
from export.report import Outcome
from tests.export.build import assert_same, batchnorm, folded, model, operators, run64, statistics


def conv_batchnorm(rng: np.random.Generator, **changes: Any) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"], name="conv"), batchnorm("h", "y", **changes)]
    return nodes, {"w": rng.normal(size=(3, 2, 1, 1))} | statistics(rng, 3)


IMAGE = {"x": ["n", 2, 4, 4]}


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.normal(size=(2, 2, 4, 4))}


def test_a_layer_that_is_also_an_output_keeps_its_value() -> None:
    rng = np.random.default_rng(0)
    nodes, constants = conv_batchnorm(rng)
    source = model(nodes, IMAGE, ["h", "y"], constants)

    result, report = folded(source)

    assert operators(result) == ["Conv", "BatchNormalization"]
    assert report.kept == {"graph-output/graph-output": 1}
    assert_same(source, result, feeds(rng))


def test_a_layer_that_somebody_else_reads_keeps_its_value() -> None:
    rng = np.random.default_rng(1)
    nodes, constants = conv_batchnorm(rng)
    nodes.append(helper.make_node("Relu", ["h"], ["z"], name="relu"))
    source = model(nodes, IMAGE, ["z", "y"], constants)

    _, report = folded(source)

    assert report.entries[0].code == "other-readers/graph-output"
    assert "also read by Relu 'relu'" in (report.entries[0].reason or "")


def test_forward_folds_only_if_all_readers_absorb() -> None:
    rng = np.random.default_rng(2)
    convs = [helper.make_node("Conv", ["n", name], [f"{name}.y"], name=name) for name in ("a", "b")]
    relu = helper.make_node("Sigmoid", ["n"], ["r"], name="relu")
    constants = {"a": rng.normal(size=(3, 2, 1, 1)), "b": rng.normal(size=(4, 2, 3, 3))} | statistics(rng, 2)
    source = model([batchnorm("x", "n"), *convs], IMAGE, ["a.y", "b.y"], constants)
    mixed = model([batchnorm("x", "n"), *convs, relu], IMAGE, ["a.y", "b.y", "r"], constants)

    result, report = folded(source)
    kept, kept_report = folded(mixed)

    assert operators(result) == ["Conv", "Conv"]
    assert report.entries[0].into == ("a", "b")
    assert_same(source, result, feeds(rng))
    assert operators(kept) == operators(mixed)
    assert kept_report.entries[0].code == "graph-input/operator"
    assert {tensor.name for tensor in kept.graph.initializer} == set(constants)


def test_a_batchnorm_without_neighbours_stays_and_says_why() -> None:
    source = model([batchnorm("x", "y")], IMAGE, ["y"], statistics(np.random.default_rng(3), 2))

    result, report = folded(source)

    assert operators(result) == ["BatchNormalization"]
    assert report.entries[0].outcome is Outcome.KEPT
    assert report.entries[0].reason == (
        "Backwards: BatchNormalization 'bn': it reads an input of the graph or an initializer, not a node. "
        "Forwards: BatchNormalization 'bn': its value 'y' is an output of the graph."
    )


@pytest.mark.parametrize("between", ["Identity", "Dropout"])
@pytest.mark.parametrize("back", [True, False])
def test_identity_and_dropout_hand_the_affine_on(back: bool, between: str) -> None:
    rng = np.random.default_rng(4)
    if back:
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
            helper.make_node(between, ["h"], ["i"]),
            batchnorm("i", "y"),
        ]
    else:
        nodes = [
            batchnorm("x", "n"),
            helper.make_node(between, ["n"], ["i"]),
            helper.make_node("Conv", ["i", "w"], ["y"], name="conv"),
        ]
    constants = {"w": rng.normal(size=(3, 2, 1, 1))} | statistics(rng, 3 if back else 2)
    source = model(nodes, IMAGE, ["y"], constants)

    result, report = folded(source)

    assert operators(result) == [node.op_type for node in nodes if node.op_type != "BatchNormalization"]
    assert report.entries[0].into == ("conv",)
    assert len(report.entries[0].path) == 2
    assert_same(source, result, feeds(rng))


def test_a_dropout_that_may_drop_refuses() -> None:
    rng = np.random.default_rng(5)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("Dropout", ["h", "ratio", "training"], ["d"], name="drop"),
        batchnorm("d", "y"),
    ]
    constants = {"w": rng.normal(size=(3, 2, 1, 1)), "ratio": np.float64(0.5), "training": np.array(True)}
    source = model(nodes, IMAGE, ["y"], constants | statistics(rng, 3))

    _, report = folded(source)

    assert report.entries[0].code == "training-mode/graph-output"


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
    assert_same(source, result, feeds(rng))


def test_parameters_may_stand_behind_identity() -> None:
    rng = np.random.default_rng(7)
    nodes, constants = conv_batchnorm(rng)
    constants = {f"{name}.raw": array for name, array in constants.items()}
    copies = [helper.make_node("Identity", [name], [name.removesuffix(".raw")]) for name in constants]
    source = model([*copies, *nodes], IMAGE, ["y"], constants)

    result, _ = folded(source)

    assert operators(result) == ["Conv"]
    assert_same(source, result, feeds(rng))


@pytest.mark.parametrize("name", ["w", "bn.var"])
def test_an_initializer_that_a_caller_may_override_is_left_alone(name: str) -> None:
    rng = np.random.default_rng(8)
    nodes, constants = conv_batchnorm(rng)
    source = model(nodes, {**IMAGE, name: constants[name].shape}, ["y"], constants)

    result, report = folded(source)

    assert "BatchNormalization" in operators(result)
    assert "overridden by the caller" in (report.entries[0].reason or "")


def test_a_batchnorm_in_a_subgraph_is_listed_and_left_in_peace() -> None:
    rng = np.random.default_rng(9)
    nodes, constants = conv_batchnorm(rng)
    branch = helper.make_graph(nodes, "then", [], [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)])
    other = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["e"])],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.DOUBLE, None)],
    )
    node = helper.make_node("If", ["which"], ["out"], then_branch=branch, else_branch=other)
    source = model([node], IMAGE, ["out"], constants | {"which": np.array(True)})

    result, report = folded(source)

    assert report.kept == {"subgraph": 1}
    assert_same(source, result, feeds(rng))


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
    nodes.append(helper.make_node("If", ["which"], ["out"], **branches))
    source = model(nodes, IMAGE, ["out", "y"], constants | {"which": np.array(True)})

    result, report = folded(source)

    assert report.entries[0].code == "other-readers/graph-output"
    assert_same(source, result, feeds(rng))


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
    nodes = [batchnorm("x", "n"), helper.make_node("If", ["which"], ["out"], **branches)]
    constants = {"w": rng.normal(size=(3, 2, 1, 1)), "which": np.array(True)} | statistics(rng, 2)
    source = model(nodes, IMAGE, ["out"], constants)

    result, report = folded(source)

    assert report.entries[0].code == "graph-input/subgraph"
    assert_same(source, result, feeds(rng))


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
    assert_same(source, result, feeds(rng))


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
    assert report.entries[1].code == "operator/graph-output"


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


def test_a_batchnorm_that_nobody_reads_is_removed_and_reported() -> None:
    rng = np.random.default_rng(27)
    nodes = [helper.make_node("Tanh", ["x"], ["y"]), batchnorm("x", "dead")]

    result, report = folded(model(nodes, IMAGE, ["y"], statistics(rng, 2)))

    assert operators(result) == ["Tanh"]
    assert (report.batchnorm_before, report.batchnorm_after) == (1, 0)
    assert report.entries[0].outcome is Outcome.REMOVED


def test_a_gain_of_zero_before_a_constant_add_folds() -> None:
    """As zero-initialised scales leave it: there is nothing to divide the constant by."""
    rng = np.random.default_rng(28)
    nodes = [
        batchnorm("x", "n"),
        helper.make_node("Add", ["n", "b"], ["a"]),
        helper.make_node("Conv", ["a", "w"], ["y"]),
    ]
    constants = {"b": rng.normal(size=(2, 1, 1)), "w": rng.normal(size=(3, 2, 1, 1))} | statistics(rng, 2)
    for scale in (0.0, 1e-38):
        constants["bn.scale"] = np.full(2, scale)
        source = model(nodes, IMAGE, ["y"], constants)

        result, _ = folded(source)

        assert operators(result) == ["Conv"]
        assert_same(source, result, feeds(rng))


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

        assert fold(ir.from_proto(source)).entries[0].code == "graph-input/invalid-group"


def test_a_float16_weight_that_would_overflow_is_kept() -> None:
    rng = np.random.default_rng(32)
    nodes, _ = conv_batchnorm(rng)
    constants = {"w": np.full((3, 2, 1, 1), 6e4, np.float16)} | statistics(rng, 3, dtype=np.float32)
    source = model(nodes, IMAGE, ["y"], constants, dtype=np.float16)

    assert fold(ir.from_proto(source)).entries[0].code == "overflow/graph-output"


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
def test_every_opset_folds(opset: int) -> None:
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


def test_equal_names_mean_equal_content() -> None:
    """A value that a fold changes has another name; the layer's output takes the BatchNormalization's."""
    rng = np.random.default_rng(20)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
        helper.make_node("Identity", ["h"], ["i"]),
        batchnorm("i", "n"),
        helper.make_node("Relu", ["n"], ["r"]),
        batchnorm("r", "m", "bn2"),
        helper.make_node("Identity", ["m"], ["j"]),
        helper.make_node("Conv", ["j", "v"], ["y"], name="last"),
    ]
    constants = {"w": rng.normal(size=(3, 2, 1, 1)), "v": rng.normal(size=(2, 3, 1, 1))}
    source = model(nodes, IMAGE, ["y"], constants | statistics(rng, 3) | statistics(rng, 3, "bn2"))

    result, report = folded(source)

    assert report.batchnorm_after == 0
    values = {name for node in result.graph.node for name in node.output}
    common = sorted(values & {name for node in source.graph.node for name in node.output})
    assert common == ["n", "r", "y"]
    probes = [onnx.ModelProto.FromString(each.SerializeToString()) for each in (source, result)]
    for probe in probes:
        del probe.graph.output[:]
        probe.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in common)
    fed = feeds(rng)
    for wanted, got in zip(*(run64(probe, fed) for probe in probes), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-10)


def test_the_carrier_holds_what_the_batchnorm_gave_out() -> None:
    rng = np.random.default_rng(21)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        batchnorm("h", "a", "first"),
        helper.make_node("Identity", ["a"], ["i"]),
        batchnorm("i", "b", "second"),
        helper.make_node("Relu", ["b"], ["r"]),
        batchnorm("r", "c", "third"),
        helper.make_node("Conv", ["c", "v"], ["y"]),
    ]
    constants = {"w": rng.normal(size=(3, 2, 1, 1)), "v": rng.normal(size=(2, 3, 1, 1))}
    for name in ("first", "second", "third"):
        constants |= statistics(rng, 3, name)

    result, report = folded(model(nodes, IMAGE, ["y"], constants))

    assert [entry.carrier for entry in report.entries] == [None, "b", None]
    assert operators(result) == ["Conv", "Identity", "Relu", "Conv"]


def test_nodes_of_one_name_have_entries_of_their_own() -> None:
    rng = np.random.default_rng(22)
    nodes = [batchnorm("x", "a"), batchnorm("a", "y")]

    _, report = folded(model(nodes, IMAGE, ["y"], statistics(rng, 2)))

    assert [entry.node for entry in report.entries] == ["bn", "bn#2"]


def test_rank_two_and_three() -> None:
    rng = np.random.default_rng(23)
    for shape in (["n", 4], ["n", 4, 5]):
        rank = len(shape)
        weight = rng.normal(size=(4, 3)) if rank == 2 else rng.normal(size=(3, 4, 1))
        layer = "Gemm" if rank == 2 else "Conv"
        nodes = [helper.make_node(layer, ["x", "w"], ["h"]), batchnorm("h", "y")]
        source = model(nodes, {"x": shape}, ["y"], {"w": weight} | statistics(rng, 3))

        result, _ = folded(source)

        assert operators(result) == [layer]
        assert_same(source, result, {"x": rng.normal(size=[2, *shape[1:]])})


def test_progress_is_told() -> None:
    nodes, constants = conv_batchnorm(np.random.default_rng(24))
    told: list[tuple[int, int]] = []

    fold(ir.from_proto(model(nodes, IMAGE, ["y"], constants)), progress=lambda done, total: told.append((done, total)))

    assert told == [(1, 1)]


def test_a_model_without_batchnorm_is_untouched() -> None:
    rng = np.random.default_rng(25)
    source = model([helper.make_node("Conv", ["x", "w"], ["y"])], IMAGE, ["y"], {"w": rng.normal(size=(3, 2, 1, 1))})

    result, report = folded(source)

    assert report.to_dict() == {
        "batchnorm_before": 0,
        "batchnorm_after": 0,
        "affines_folded": 0,
        "entries": [],
        "warnings": [],
    }
    assert_same(source, result, feeds(rng))


def test_a_result_that_is_not_valid_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, constants = conv_batchnorm(np.random.default_rng(35))
    source = model(nodes, IMAGE, ["y"], constants)

    def wrong(node: ir.Node, *_: Any) -> ir.Value:
        node.op_type = "Nonsense"
        return node.outputs[0]

    monkeypatch.setattr("export.fold.fold_back", wrong)

    with pytest.raises(FoldError, match="Nonsense"):
        fold(ir.from_proto(source))

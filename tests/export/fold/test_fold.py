"""The fold as a whole: values that may change and must not, and the entries of the report."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from normfold.export.errors import FoldError
from normfold.export.fold.fold import STAGES, fold
from normfold.export.fold.report import Outcome
from tests.support.onnx_models import (
    IMAGE,
    assert_same,
    batchnorm,
    conv_batchnorm,
    folded,
    image_rows,
    model,
    operators,
    run64,
    statistics,
)


def test_a_layer_that_is_also_an_output_keeps_its_value() -> None:
    rng = np.random.default_rng(0)
    nodes, constants = conv_batchnorm(rng)
    source = model(nodes, IMAGE, ["h", "y"], constants)

    result, report = folded(source)

    assert operators(result) == ["Conv", "BatchNormalization"]
    assert report.kept == {"graph-output/graph-output": 1}
    assert_same(source, result, image_rows(rng))


def test_layer_with_another_reader_keeps_its_value() -> None:
    rng = np.random.default_rng(1)
    nodes, constants = conv_batchnorm(rng)
    nodes.append(helper.make_node("Relu", ["h"], ["z"], name="relu"))
    source = model(nodes, IMAGE, ["z", "y"], constants)

    _, report = folded(source)

    assert report.entries[0].reason_code == "other-readers/graph-output"
    assert "also read by Relu 'relu'" in (report.entries[0].reason or "")


def test_batchnorm_folds_forwards_only_if_all_readers_absorb() -> None:
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
    assert_same(source, result, image_rows(rng))
    assert operators(kept) == operators(mixed)
    assert kept_report.entries[0].reason_code == "graph-input/operator"
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
def test_identity_and_dropout_do_not_stand_in_the_way(back: bool, between: str) -> None:
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

    assert operators(result) == ["Conv"]
    assert report.entries[0].into == ("conv",)
    assert_same(source, result, image_rows(rng))


def test_unread_batchnorm_is_removed_and_reported() -> None:
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
        assert_same(source, result, image_rows(rng))


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
    fed = image_rows(rng)
    for wanted, got in zip(*(run64(probe, fed) for probe in probes), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-10)


def test_output_value_holds_the_output_of_the_batchnorm() -> None:
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

    assert [entry.output_value for entry in report.entries] == [None, "b", None]
    assert operators(result) == ["Conv", "Relu", "Conv"]


def test_nodes_of_one_name_have_entries_of_their_own() -> None:
    rng = np.random.default_rng(22)
    nodes = [batchnorm("x", "a"), batchnorm("a", "y")]

    _, report = folded(model(nodes, IMAGE, ["y"], statistics(rng, 2)))

    assert [entry.node for entry in report.entries] == ["bn", "bn#2"]


def test_batchnorm_of_rank_two_and_three_folds() -> None:
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


def test_fold_reports_each_stage_and_the_number_of_folded_nodes_as_progress() -> None:
    nodes, constants = conv_batchnorm(np.random.default_rng(24))
    steps: list[str] = []

    fold(ir.from_proto(model(nodes, IMAGE, ["y"], constants)), progress=steps.append)

    stages = [f"folding: {stage.__name__.replace('_', ' ')}" for stage in STAGES]
    assert [step for step in steps if step in stages] == stages
    assert "folding: 1 of 1 BatchNormalization nodes" in steps


def test_a_model_without_batchnorm_is_untouched() -> None:
    rng = np.random.default_rng(25)
    source = model([helper.make_node("Conv", ["x", "w"], ["y"])], IMAGE, ["y"], {"w": rng.normal(size=(3, 2, 1, 1))})

    result, report = folded(source)

    assert report.to_dict() == {
        "batchnorm_before": 0,
        "batchnorm_after": 0,
        "batchnorm_made": 0,
        "affines_folded": 0,
        "entries": [],
        "warnings": [],
        "input": None,
    }
    assert_same(source, result, image_rows(rng))


def test_a_result_that_is_not_valid_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, constants = conv_batchnorm(np.random.default_rng(35))
    source = model(nodes, IMAGE, ["y"], constants)

    def wrong(node: ir.Node, *_: Any) -> ir.Value:
        node.op_type = "Nonsense"
        return node.outputs[0]

    monkeypatch.setattr("normfold.export.fold.stages.fold_affines.apply_backward", wrong)

    with pytest.raises(FoldError, match="Nonsense"):
        fold(ir.from_proto(source))

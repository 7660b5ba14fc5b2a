"""BatchNormalization inside the bodies of If, Loop and Scan is folded there, and nothing crosses a body's border."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from normfold.export.files.audit_file import audit_onnx
from normfold.export.files.fold_file import fold_file
from normfold.export.fold.report import Outcome
from normfold.export.graph.bodies import name_bodies
from normfold.export.graph.nodes import opset_of
from tests.support.onnx_models import (
    IMAGE,
    all_operators,
    assert_same,
    batchnorm,
    folded,
    model,
    operators,
    run32,
    statistics,
)

LIMIT = {"limit": np.array(0.0)}


def condition() -> list[NodeProto]:
    """Make the nodes of a condition that is known only when the model runs."""
    return [
        helper.make_node("ReduceMax", ["x"], ["max"], keepdims=0),
        helper.make_node("Less", ["limit", "max"], ["which"]),
    ]


def body(nodes: list[NodeProto], output: str, constants: Mapping[str, Any] | None = None, **inputs: Any) -> Any:
    """Make a body with one output, of float64 like its inputs, and of the shape of the first of them."""
    return helper.make_graph(
        nodes,
        output,
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.DOUBLE, next(iter(inputs.values()), None))],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )


def branches(then: onnx.GraphProto, other: onnx.GraphProto, output: str = "y") -> list[NodeProto]:
    return [*condition(), helper.make_node("If", ["which"], [output], then_branch=then, else_branch=other)]


def conv_then(name: str, source: str = "x", weight: str = "w") -> list[NodeProto]:
    """Make Conv and BatchNormalization; all the bodies use the same names for their values."""
    conv = helper.make_node("Conv", [source, weight], ["h"], name=f"conv.{name}")
    return [conv, batchnorm("h", "out", name)]


def counts(proto: onnx.ModelProto) -> Counter[str]:
    """Count operators, those in bodies too."""
    return Counter(all_operators(proto))


def check(source: onnx.ModelProto, kept: int = 0) -> onnx.ModelProto:
    """Fold a model, compare outputs where the condition holds and where it does not; return the folded model."""
    result, report = folded(source)
    assert report.batchnorm_after == counts(result)["BatchNormalization"] == kept
    rng = np.random.default_rng(3)
    x = np.abs(rng.normal(size=(2, 2, 4, 4)))
    for given in (x, -x):
        assert_same(source, result, {"x": given})
    return result


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("opset", [9, 11, 13, 18])
def test_body_of_each_branch_is_folded(opset: int, rng: np.random.Generator) -> None:
    constants = {"w": rng.normal(size=(3, 2, 3, 3)), "v": rng.normal(size=(3, 2, 3, 3))} | LIMIT
    constants |= statistics(rng, 3, "a") | statistics(rng, 3, "b")
    nodes = branches(body(conv_then("a"), "out"), body(conv_then("b", weight="v"), "out"))

    result = check(model(nodes, IMAGE, ["y"], constants, opset=opset))

    assert counts(result)["Conv"] == 2


def test_body_copies_a_weight_that_the_outer_graph_and_another_body_read(rng: np.random.Generator) -> None:
    constants = {"w": rng.normal(size=(3, 2, 1, 1))} | LIMIT | statistics(rng, 3, "a") | statistics(rng, 3, "b")
    outer = helper.make_node("Conv", ["x", "w"], ["outer"])
    nodes = [outer, *branches(body(conv_then("a"), "out"), body(conv_then("b"), "out"))]
    source = model(nodes, IMAGE, ["y", "outer"], constants)

    result = check(source)

    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    np.testing.assert_array_equal(kept["w"], constants["w"])
    inside = [attribute.g for attribute in result.graph.node[-1].attribute]
    assert [[tuple(tensor.dims) for tensor in each.initializer] for each in inside] == [[(3, 2, 1, 1), (3,)]] * 2
    names = [tensor.name for each in (result.graph, *inside) for tensor in each.initializer]
    assert len(names) == len(set(names))


def test_body_with_constants_of_its_own_is_folded(rng: np.random.Generator) -> None:
    """Initializers in one body, Constant nodes in the other, both under the same names."""
    own = {"w": rng.normal(size=(3, 2, 1, 1))} | statistics(rng, 3, "a")
    spelt = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
        for name, array in ({"w": rng.normal(size=(3, 2, 1, 1))} | statistics(rng, 3, "a")).items()
    ]
    nodes = branches(body(conv_then("a"), "out", own), body([*spelt, *conv_then("a")], "out"))

    result = check(model(nodes, IMAGE, ["y"], LIMIT))

    assert counts(result) == {"ReduceMax": 1, "Less": 1, "If": 1, "Conv": 2}
    graphs = [ir.from_proto(result).graph]
    graphs += graphs[0].subgraphs()
    names = [name for graph in graphs for name in graph.initializers]
    names += [value.name or "" for graph in graphs for each in graph for value in each.outputs]
    assert len(names) == len(set(names))


def test_body_has_the_opsets_of_its_model(rng: np.random.Generator) -> None:
    parts = [body(conv_then("a"), "out"), body(conv_then("a"), "out")]
    constants = {"w": rng.normal(size=(3, 2, 1, 1))} | LIMIT | statistics(rng, 3, "a")
    working = ir.from_proto(model(branches(*parts), IMAGE, ["y"], constants, opset=13))

    assert name_bodies(working) is True
    assert name_bodies(working) is False

    assert {opset_of(each) for each in working.graph.all_nodes()} == {13}


def test_body_inside_a_body_is_folded(rng: np.random.Generator) -> None:
    constants = {"w": rng.normal(size=(3, 2, 1, 1))} | LIMIT
    for name in "abc":
        constants |= statistics(rng, 3, name)
    inner = helper.make_node(
        "If", ["which"], ["out"], then_branch=body(conv_then("a"), "out"), else_branch=body(conv_then("b"), "out")
    )
    inner.output[0] = "nested"
    nodes = branches(body([inner], "nested"), body(conv_then("c"), "out"))

    assert counts(check(model(nodes, IMAGE, ["y"], constants)))["If"] == 2


def test_body_of_a_loop_is_folded(rng: np.random.Generator) -> None:
    nodes = [helper.make_node("Conv", ["state", "w"], ["h"], pads=[1] * 4), batchnorm("h", "n"),
             helper.make_node("Tanh", ["n"], ["next"]), helper.make_node("Identity", ["go"], ["again"])]  # fmt: skip
    loop = body(nodes, "next", state=["n", 2, 4, 4])
    loop.input.insert(0, helper.make_tensor_value_info("i", TensorProto.INT64, []))
    loop.input.insert(1, helper.make_tensor_value_info("go", TensorProto.BOOL, []))
    loop.output.insert(0, helper.make_tensor_value_info("again", TensorProto.BOOL, []))
    constants = {"w": rng.normal(size=(2, 2, 3, 3)), "times": np.array(3), "yes": np.array(True)} | statistics(rng, 2)
    constants["shape"] = np.array([-1, 2, 4, 4])
    turns = helper.make_node("Loop", ["times", "yes", "x"], ["last"], body=loop)
    source = model([turns, helper.make_node("Reshape", ["last", "shape"], ["y"])], IMAGE, ["y"], constants)

    check(source)


def test_body_of_a_scan_is_folded(rng: np.random.Generator) -> None:
    nodes = [
        helper.make_node("Add", ["state", "row"], ["sum"]),
        helper.make_node("Gemm", ["sum", "w"], ["h"]),
        batchnorm("h", "n"),
        helper.make_node("Tanh", ["n"], ["next"]),
        helper.make_node("Identity", ["next"], ["given"]),
    ]
    scan = body(nodes, "next", state=["n", 4], row=["n", 4])
    scan.output.append(helper.make_tensor_value_info("given", TensorProto.DOUBLE, ["n", 4]))
    turn = helper.make_node("Transpose", ["x"], ["steps"], perm=[2, 1, 0, 3])
    parts = [
        helper.make_node("Reshape", ["steps", "shape"], ["rows"]),
        helper.make_node("ReduceMean", ["rows"], ["start"], axes=[0], keepdims=0),
        helper.make_node("Scan", ["start", "rows"], ["last", "y"], body=scan, num_scan_inputs=1),
    ]
    constants = {"w": rng.normal(size=(4, 4)), "shape": np.array([4, -1, 4])} | statistics(rng, 4)

    check(model([turn, *parts], IMAGE, ["y", "last"], constants))


def test_body_of_a_function_call_is_folded(rng: np.random.Generator) -> None:
    """A function is inlined where it is called, and so are its bodies."""
    constants = {"w": rng.normal(size=(3, 2, 1, 1))} | LIMIT | statistics(rng, 3, "a") | statistics(rng, 3, "b")
    captured = [name for name in constants if name != "limit"]
    nodes = branches(body(conv_then("a"), "out"), body(conv_then("b"), "out"))
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("own", "Choose", ["x", "limit", *captured], ["y"], nodes, opsets)
    source = model([helper.make_node("Relu", ["x"], ["y"])], IMAGE, ["y"], constants)
    source.graph.node[0].CopyFrom(helper.make_node("Choose", ["x", "limit", *captured], ["y"], domain="own"))
    source.graph.output[0].type.tensor_type.ClearField("shape")
    source.functions.append(function)
    source.opset_import.append(helper.make_opsetid("own", 1))

    _, report = folded(source)

    assert (report.batchnorm_before, report.batchnorm_after) == (2, 0)


@pytest.mark.parametrize("place", ["layer outside", "batchnorm outside"])
def test_body_is_not_left_by_an_affine(place: str, rng: np.random.Generator) -> None:
    """The layer is outside and the BatchNormalization inside, or the other way round."""
    constants = {"w": rng.normal(size=(2, 2, 1, 1))} | LIMIT | statistics(rng, 2, "a")
    conv, norm = helper.make_node("Conv", ["x", "w"], ["h"]), batchnorm("h", "out", "a")
    other = body([helper.make_node("Neg", ["x"], ["out"])], "out")
    if place == "layer outside":
        nodes = [conv, *branches(body([norm], "out"), other)]
        code = "subgraph/graph-output"
    else:
        conv.input[0], conv.output[0], norm.input[0], norm.output[0] = "n", "out", "x", "n"
        nodes = [norm, *branches(body([conv], "out"), other)]
        code = "graph-input/subgraph"
    source = model(nodes, IMAGE, ["y"], constants)

    check(source, kept=1)

    assert folded(source)[1].entries[0].reason_code == code


@pytest.mark.parametrize("name", ["w", "a.scale"])
def test_body_keeps_a_constant_that_a_caller_may_override(name: str, rng: np.random.Generator) -> None:
    constants = {"w": rng.normal(size=(3, 2, 1, 1))} | LIMIT | statistics(rng, 3, "a")
    other = body([helper.make_node("Conv", ["x", "w"], ["out"])], "out")
    source = model(branches(body(conv_then("a"), "out"), other), IMAGE, ["y"], constants)
    source.graph.input.append(helper.make_tensor_value_info(name, TensorProto.DOUBLE, constants[name].shape))

    result, report = folded(source)

    assert counts(result)["BatchNormalization"] == 1
    assert report.entries[0].reason_code in ("parameter-not-constant", "weights-not-constant/graph-output")


def test_body_of_training_mode_is_named_beside_a_frozen_one(rng: np.random.Generator) -> None:
    """In a body too the number of outputs says it until opset 13."""
    parts = [conv_then("a"), conv_then("b")]
    parts[0][1].output.extend(["m", "v", "sm", "sv"])
    constants = {"w": rng.normal(size=(3, 2, 1, 1))} | LIMIT | statistics(rng, 3, "a") | statistics(rng, 3, "b")
    nodes = branches(*(body(part, "out") for part in parts))

    result, report = folded(model(nodes, IMAGE, ["y"], constants, opset=9))

    assert report.kept == {"training-mode": 1}
    assert counts(result)["BatchNormalization"] == 1


@pytest.mark.parametrize("outer", ["x", "outer"])
def test_body_output_is_not_made_an_outer_value(outer: str) -> None:
    """A BatchNormalization that does nothing stays where a body would hand out a value that it does not make."""
    identity = {"a.scale": np.ones(2), "a.shift": np.zeros(2), "a.mean": np.zeros(2), "a.var": np.full(2, 1 - 2**-16)}
    node = batchnorm(outer, "out", "a", epsilon=2**-16)
    nodes = branches(body([node], "out"), body([helper.make_node("Neg", [outer], ["out"])], "out"))
    if outer != "x":
        nodes.insert(0, helper.make_node("Tanh", ["x"], [outer]))

    check(model(nodes, IMAGE, ["y"], identity | LIMIT), kept=1)


def test_body_merges_its_own_branches(rng: np.random.Generator) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["p"], pads=[1] * 4),
        helper.make_node("Conv", ["x", "v"], ["q"]),
        helper.make_node("Add", ["p", "q"], ["sum"]),
        batchnorm("sum", "out", "a"),
    ]
    constants = {"w": rng.normal(size=(3, 2, 3, 3)), "v": rng.normal(size=(3, 2, 1, 1))} | LIMIT
    source = model(
        branches(body(nodes, "out"), body([helper.make_node("Conv", ["x", "v"], ["out"])], "out")),
        IMAGE,
        ["y"],
        constants | statistics(rng, 3, "a"),
    )

    assert counts(check(source)) == {"ReduceMax": 1, "Less": 1, "If": 1, "Conv": 2}


def test_body_that_nothing_reads_is_removed_with_its_batchnorm(rng: np.random.Generator) -> None:
    constants = {"w": rng.normal(size=(3, 2, 1, 1))} | LIMIT | statistics(rng, 3, "a")
    read = body([*conv_then("a", source="n"), helper.make_node("Relu", ["out"], ["r"])], "r")
    nodes = branches(read, body(conv_then("a"), "out"), output="unread")
    before = batchnorm("x", "n", "a")
    source = model([before, *nodes, helper.make_node("Relu", ["x"], ["y"])], IMAGE, ["y"], constants)

    result, report = folded(source)

    assert operators(result) == ["Relu"]
    assert report.kept == {"unread": 3}


def test_body_of_a_branch_that_is_never_taken_reads_nothing(rng: np.random.Generator) -> None:
    """The Conv's output has one reader once the If is gone: the BatchNormalization beside it."""
    constants = {"w": rng.normal(size=(3, 2, 1, 1)), "which": np.array(True)} | statistics(rng, 3, "a")
    then, other = (body([helper.make_node(op_type, ["h"], [op_type])], op_type) for op_type in ("Abs", "Neg"))
    then.node[0].input[0] = "out"
    nodes = [*conv_then("a"), helper.make_node("If", ["which"], ["y"], then_branch=then, else_branch=other)]
    source = model(nodes, IMAGE, ["y"], constants)

    result, _ = folded(source)

    assert operators(result) == ["Conv", "Abs"]


def test_body_nodes_are_named_in_the_report(rng: np.random.Generator) -> None:
    constants = {"w": rng.normal(size=(3, 2, 1, 1))} | LIMIT | statistics(rng, 3, "a")
    nodes = branches(body(conv_then("a"), "out"), body(conv_then("a"), "out"))

    _, report = folded(model(nodes, IMAGE, ["y"], constants))

    assert [(entry.node, entry.outcome, entry.into) for entry in report.entries] == [
        ("a", Outcome.FOLDED_BACK, ("conv.a",)),
        ("a#2", Outcome.FOLDED_BACK, ("conv.a",)),
    ]
    assert list(report.parameters) == ["a", "a#2"]
    assert all(entry.output_value is None for entry in report.entries)


@pytest.mark.slow
def test_body_is_folded_verified_and_audited_as_a_file(rng: np.random.Generator, tmp_path: Path) -> None:
    constants = {"w": rng.normal(size=(3, 2, 3, 3))} | LIMIT | statistics(rng, 3, "a") | statistics(rng, 3, "b")
    typed = {name: array.astype(np.float32) for name, array in constants.items()}
    parts = [body(conv_then("a"), "out"), body(conv_then("b"), "out")]
    for part in parts:
        part.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    source = model(branches(*parts), IMAGE, ["y"], typed, dtype=np.float32)
    onnx.save(source, tmp_path / "a.onnx")

    done = fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx")

    result = onnx.load(tmp_path / "b.onnx")
    assert done.verification is not None
    assert done.verification.passes
    assert counts(result)["BatchNormalization"] == 0
    assert len(audit_onnx(tmp_path / "a.onnx").layers) == 2
    for sign in (1, -1):
        x = sign * np.abs(rng.normal(size=(2, 2, 4, 4))).astype(np.float32)
        np.testing.assert_allclose(run32(source, {"x": x})[0], run32(result, {"x": x})[0], atol=1e-5, rtol=1e-4)

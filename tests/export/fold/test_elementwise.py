"""Mul, Add, Sub and Div by a constant vector fold as affines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from normfold.export.fold.report import Outcome
from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics

IMAGE = {"x": ["n", 4, 5, 5]}


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


def check(nodes: list[NodeProto], constants: dict[str, Any], wanted: list[str], opset: int = 17) -> Any:
    source = model(nodes, IMAGE, ["y"], constants, opset=opset)
    result, report = folded(source)
    assert operators(result) == wanted
    assert_same(source, result, {"x": np.random.default_rng(1).normal(size=(2, 4, 5, 5))})
    return report


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_decomposed_batchnorm_folds_into_the_layer_before_it(rng: np.random.Generator) -> None:
    nodes = [
        node("Conv", "x w", "h"),
        node("Sub", "h mean", "a"),
        node("Div", "a std", "b"),
        node("Mul", "b scale", "c"),
        node("Add", "c shift", "y"),
    ]
    vectors = {name: rng.uniform(0.5, 2, size=(4, 1, 1)) for name in ("mean", "std", "scale", "shift")}

    report = check(nodes, {"w": rng.normal(size=(4, 4, 3, 3))} | vectors, ["Conv"])

    assert report.affines == 4


def test_a_layer_scale_folds_into_the_layer_before_it(rng: np.random.Generator) -> None:
    nodes = [node("Conv", "x w", "h"), node("Mul", "k h", "s"), node("Add", "x s", "a"), node("Tanh", "a", "y")]

    check(nodes, {"w": rng.normal(size=(4, 4, 1, 1)), "k": rng.normal(size=(4, 1, 1))}, ["Conv", "Tanh"])


def test_a_layer_scale_between_a_layer_and_a_batchnorm_goes_with_it(rng: np.random.Generator) -> None:
    nodes = [node("Conv", "x w", "h"), node("Mul", "h k", "s"), batchnorm("s", "y")]
    constants = {"w": rng.normal(size=(4, 4, 1, 1)), "k": rng.normal(size=(4, 1, 1))} | statistics(rng, 4)

    check(nodes, constants, ["Conv"])


def test_affine_behind_a_kept_batchnorm_is_composed_with_it(rng: np.random.Generator) -> None:
    nodes = [node("Tanh", "x", "t"), batchnorm("t", "n"), node("Mul", "n k", "m"), node("Tanh", "m", "y")]

    report = check(
        nodes, {"k": rng.normal(size=(4, 1, 1))} | statistics(rng, 4), ["Tanh", "BatchNormalization", "Tanh"]
    )

    assert report.entries[0].outcome is Outcome.KEPT


def test_two_batchnorms_in_a_row_become_one(rng: np.random.Generator) -> None:
    nodes = [
        node("Tanh", "x", "t"),
        batchnorm("t", "n", "first"),
        batchnorm("n", "m", "second"),
        node("Tanh", "m", "y"),
    ]
    constants = statistics(rng, 4, "first") | statistics(rng, 4, "second")

    report = check(nodes, constants, ["Tanh", "BatchNormalization", "Tanh"])

    assert [entry.outcome for entry in report.entries] == [Outcome.COMPOSED, Outcome.KEPT]
    assert report.entries[0].outcome.description == "combined with another affine"
    assert report.entries[0].into == ("second",)


@pytest.mark.parametrize(("op_type", "number"), [("Add", 0.0), ("Sub", 0.0), ("Mul", 1.0), ("Div", 1.0)])
def test_identity_affine_is_removed(op_type: str, number: float) -> None:
    nodes = [node("Tanh", "x", "t"), node(op_type, "t c", "s"), node("Tanh", "s", "y")]

    check(nodes, {"c": np.float64(number)}, ["Tanh", "Tanh"])


def test_identity_affine_between_input_and_output_stays() -> None:
    check([node("Add", "x c", "y")], {"c": np.float64(0)}, ["Add"])


def test_a_scalar_is_left_alone(rng: np.random.Generator) -> None:
    nodes = [node("Conv", "x w", "h"), node("Mul", "h c", "y")]

    check(nodes, {"w": rng.normal(size=(4, 4, 1, 1)), "c": np.float64(0.5)}, ["Conv", "Mul"])


def test_scalar_of_one_element_is_left_alone_whatever_its_rank(rng: np.random.Generator) -> None:
    nodes = [node("Conv", "x w", "h"), node("Mul", "h c", "y")]

    check(nodes, {"w": rng.normal(size=(4, 4, 1, 1)), "c": np.full((1, 1, 1), 0.5)}, ["Conv", "Mul"])


@pytest.mark.parametrize("op_type", ["Mul", "Div", "Add", "Sub"])
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1)])
def test_vector_of_equal_elements_folds_into_the_layer_before_it(
    op_type: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    nodes = [node("Conv", "x w", "h"), node(op_type, "h c", "m"), node("Relu", "m", "y")]

    check(nodes, {"w": rng.normal(size=(4, 4, 1, 1)), "c": np.full(shape, 0.5)}, ["Conv", "Relu"])


def test_constant_of_full_size_folds_if_it_varies_along_the_channels_alone(rng: np.random.Generator) -> None:
    nodes = [node("Conv", "x w", "h"), node("Mul", "h c", "m"), node("Relu", "m", "y")]
    weight, vector = rng.normal(size=(4, 4, 1, 1)), rng.normal(size=(4, 1, 1))

    check(nodes, {"w": weight, "c": np.broadcast_to(vector, (4, 5, 5))}, ["Conv", "Relu"])
    check(nodes, {"w": weight, "c": np.full((4, 5, 5), 0.5)}, ["Conv", "Mul", "Relu"])
    check(nodes, {"w": weight, "c": rng.normal(size=(4, 5, 5))}, ["Conv", "Mul", "Relu"])


def test_gelu_and_the_scale_of_attention_are_left_alone(rng: np.random.Generator) -> None:
    gelu = [
        node("Conv", "x w", "h"),
        node("Div", "h root", "d"),
        node("Erf", "d", "e"),
        node("Add", "e one", "a"),
        node("Mul", "h a", "m"),
        node("Mul", "m half", "y"),
    ]
    numbers = {"root": np.float64(2**0.5), "one": np.ones(1), "half": np.full((1, 1, 1, 1), 0.5)}
    check(gelu, {"w": rng.normal(size=(4, 4, 1, 1))} | numbers, [each.op_type for each in gelu])

    attention = [
        node("Conv", "x w", "q"),
        node("Conv", "x v", "k"),
        node("MatMul", "q k", "s"),
        node("Mul", "s half", "t"),
        node("Softmax", "t", "y", axis=-1),
    ]
    weights = {"w": rng.normal(size=(4, 4, 1, 1)), "v": rng.normal(size=(4, 4, 1, 1)), "half": np.float64(0.5)}
    check(attention, weights, [each.op_type for each in attention])


def test_the_affine_of_a_decomposed_layer_norm_is_left_for_the_runtime(rng: np.random.Generator) -> None:
    nodes = [
        node("ReduceMean", "x", "m", axes=[1]),
        node("Sub", "x m", "d"),
        node("Mul", "d d", "q"),
        node("ReduceMean", "q", "v", axes=[1]),
        node("Sqrt", "v", "r"),
        node("Div", "d r", "z"),
        node("Mul", "z scale", "a"),
        node("Add", "a shift", "b"),
        node("Conv", "b w", "y"),
    ]
    constants = {"scale": rng.normal(size=(4, 1, 1)), "shift": rng.normal(size=(4, 1, 1))}

    check(nodes, constants | {"w": rng.normal(size=(3, 4, 1, 1))}, [each.op_type for each in nodes])

"""Constants that an Expand or a Concat puts beside activations, such as class tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


@pytest.mark.parametrize("shape", [(1, 4, 1), (4, 1), (1,), (), (1, 4, 2)])
def test_expand_of_a_constant_absorbs_the_affine(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", "x w", "c"),
        node("Shape", "x", "whole"),
        node("Gather", "whole zero", "rows"),
        node("Concat", "rows four two", "target", axis=0),
        node("Expand", "token target", "e"),
        node("Concat", "e c", "m", axis=2),
        batchnorm("m", "b"),
        node("Tanh", "b", "y"),
    ]
    constants = {"w": rng.normal(size=(4, 3, 1)), "token": rng.normal(size=shape), "zero": np.array([0])}
    constants |= {"four": np.array([4]), "two": np.array([2])} | statistics(rng, 4)
    source = model(nodes, {"x": ["n", 3, "tokens"]}, ["y"], constants)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert "BatchNormalization" not in operators(result)
    assert_same(source, result, {"x": rng.normal(size=(2, 3, 5))})


@pytest.mark.parametrize("op_type", ["MatMul", "Tanh"])
def test_tile_of_a_class_token_absorbs_the_affine(op_type: str) -> None:
    """As PaddlePaddle and Keras write it: the batch's size among constant numbers of copies."""
    rng = np.random.default_rng(3)
    nodes = [
        node("MatMul", "x w", "c"),
        node("Shape", "x", "rows", start=0, end=1),
        node("Concat", "rows one one", "repeats", axis=0),
        node("Tile", "token repeats", "e"),
        node("Concat", "e c", "m", axis=1),
        node("Transpose", "m", "t", perm=[0, 2, 1]),
        batchnorm("t", "b"),
        node(op_type, "b v" if op_type == "MatMul" else "b", "y"),
    ]
    constants = {"w": rng.normal(size=(3, 4)), "token": rng.normal(size=(1, 1, 4)), "one": np.array([1])}
    constants |= statistics(rng, 4) | ({"v": rng.normal(size=(6, 2))} if op_type == "MatMul" else {})
    constants["bn.shift"] = constants["bn.mean"] = np.zeros(4)  # the MatMul has no bias
    source = model(nodes, {"x": ["n", 5, 3]}, ["y"], constants)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, {"x": rng.normal(size=(2, 5, 3))})


def test_concat_gives_each_reader_of_a_constant_its_own() -> None:
    rng = np.random.default_rng(1)
    nodes = [
        node("Conv", "x w", "c"),
        node("Concat", "token c", "m", axis=1),
        batchnorm("m", "b"),
        node("Tanh", "b", "y"),
        node("Concat", "x token", "z", axis=1),
    ]
    constants = {"w": rng.normal(size=(4, 3, 1)), "token": rng.normal(size=(1, 2, 5))} | statistics(rng, 6)
    source = model(nodes, {"x": [1, 3, 5]}, ["y", "z"], constants)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert len(result.graph.initializer) == 4  # the Conv's weight and bias, and two tokens
    assert_same(source, result, {"x": rng.normal(size=(1, 3, 5))})


def test_concat_with_an_initializer_that_a_caller_may_override_is_kept() -> None:
    rng = np.random.default_rng(2)
    nodes = [node("Conv", "x w", "c"), node("Concat", "token c", "m", axis=1), batchnorm("m", "y")]
    constants = {"w": rng.normal(size=(4, 3, 1)), "token": rng.normal(size=(1, 2, 5))} | statistics(rng, 6)
    source = model(nodes, {"x": [1, 3, 5], "token": [1, 2, 5]}, ["y"], constants)

    _, report = folded(source)

    assert report.entries[0].reason_code == "graph-input/graph-output"

"""Slice and Gather: computed indices along other axes, an axis that is dropped, true reasons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


def test_slice_to_the_length_of_another_value_passes_a_per_channel_affine() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", "x w", "c", pads=[0, 2]),
        node("Shape", "x", "shape"),
        node("Gather", "shape two", "length"),
        node("Slice", "c first length two", "s"),
        batchnorm("s", "b"),
        node("Tanh", "b", "y"),
    ]
    constants = {"w": rng.normal(size=(4, 3, 2)), "two": np.array([2]), "first": np.array([0])} | statistics(rng, 4)
    source = model(nodes, {"x": ["n", 3, "length"]}, ["y"], constants)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert "BatchNormalization" not in operators(result)
    assert_same(source, result, {"x": rng.normal(size=(2, 3, 7))})


@pytest.mark.parametrize("channels", ["end", "length"])
def test_slice_whose_ends_are_constant_for_the_channels_alone(channels: str) -> None:
    rng = np.random.default_rng(5)
    nodes = [
        node("Conv", "x w", "c", pads=[0, 2]),
        node("Shape", "x", "shape"),
        node("Gather", "shape two", "length"),
        node("Concat", f"{channels} length", "ends", axis=0),
        node("Slice", "c first ends axes", "s"),
        batchnorm("s", "b"),
        node("Tanh", "b", "y"),
    ]
    constants = {"w": rng.normal(size=(6, 3, 2)), "two": np.array([2]), "first": np.array([1, 0])}
    constants |= {"axes": np.array([1, -1])} | ({"end": np.array([5])} if channels == "end" else {})
    source = model(nodes, {"x": ["n", 3, "length"]}, ["y"], constants | statistics(rng, 4))

    result, report = folded(source)

    wanted = None if channels == "end" else "computed-indices/operator"
    assert report.entries[0].reason_code == wanted
    assert_same(source, result, {"x": rng.normal(size=(2, 3, 5))})


def test_slice_to_the_shape_of_another_value_knows_its_channels() -> None:
    rng = np.random.default_rng(6)
    nodes = [
        node("Conv", "x w", "c", pads=[0, 2]),
        node("Sigmoid", "z", "other"),
        node("Shape", "other", "shape", start=1),
        node("Slice", "c zeros shape axes", "s"),
        batchnorm("s", "b"),
        node("Tanh", "b", "y"),
    ]
    constants = {"w": rng.normal(size=(6, 3, 2)), "zeros": np.array([0, 0]), "axes": np.array([1, 2])}
    source = model(nodes, {"x": ["n", 3, "length"], "z": ["n", 4, "length"]}, ["y"], constants | statistics(rng, 4))

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, {"x": rng.normal(size=(2, 3, 5)), "z": rng.normal(size=(2, 4, 5))})


def test_gather_of_the_class_token_drops_the_axis() -> None:
    rng = np.random.default_rng(1)
    nodes = [
        node("MatMul", "x w", "c"),
        node("Add", "c k", "a"),
        node("Gather", "a zero", "s", axis=1),
        batchnorm("s", "b"),
        node("Tanh", "b", "y"),
    ]
    constants = {"w": rng.normal(size=(6, 4)), "k": rng.normal(size=4), "zero": np.int64(0)} | statistics(rng, 4)
    source = model(nodes, {"x": ["n", "tokens", 6]}, ["y"], constants)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, {"x": rng.normal(size=(2, 5, 6))})


def test_gather_forwards_takes_the_affine_of_the_element() -> None:
    rng = np.random.default_rng(2)
    nodes = [
        node("Tanh", "x", "t"),
        batchnorm("t", "b"),
        node("Gather", "b two", "s", axis=2),
        node("Gemm", "s w", "y"),
    ]
    constants = {"w": rng.normal(size=(4, 3)), "two": np.int64(-2)} | statistics(rng, 4)
    source = model(nodes, {"x": ["n", 4, 5]}, ["y"], constants)

    result, report = folded(source)

    assert operators(result) == ["Tanh", "Gather", "Gemm"]
    assert report.batchnorm_after == 0
    assert_same(source, result, {"x": rng.normal(size=(2, 4, 5))})


def test_gather_whose_other_elements_are_read_is_kept() -> None:
    rng = np.random.default_rng(3)
    nodes = [
        node("Conv", "x w", "c"),
        node("Gather", "c zero", "s", axis=2),
        node("Gather", "c one", "o", axis=2),
        batchnorm("s", "y"),
    ]
    constants = {"w": rng.normal(size=(4, 3, 1)), "zero": np.int64(0), "one": np.int64(1)} | statistics(rng, 4)
    source = model(nodes, {"x": ["n", 3, 5]}, ["y", "o"], constants)

    result, report = folded(source)

    assert report.entries[0].reason_code == "other-readers/graph-output"
    assert_same(source, result, {"x": rng.normal(size=(2, 3, 5))})


def test_gather_by_an_index_that_the_caller_gives_has_a_true_reason() -> None:
    rng = np.random.default_rng(4)
    nodes = [node("Conv", "x w", "c"), node("Gather", "c i", "s", axis=1), batchnorm("s", "b"), node("Tanh", "b", "y")]
    constants = {"w": rng.normal(size=(4, 3, 1)), "i": np.array([1, 0])} | statistics(rng, 2)
    source = model(nodes, {"x": ["n", 3, 5]}, ["y"], constants)
    source.graph.input.append(helper.make_tensor_value_info("i", 7, [2]))

    _, report = folded(source)

    (entry,) = report.entries
    assert entry.reason_code == "computed-indices/operator"
    assert "may be overridden by the caller" in (entry.reason or "")
    assert "is computed" not in (entry.reason or "")

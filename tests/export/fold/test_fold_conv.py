"""Conv before a BatchNormalization, and behind one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from normfold.export.fold.report import Outcome
from tests.support.onnx_models import (
    IMAGE,
    assert_same,
    batchnorm,
    conv_batchnorm,
    folded,
    model,
    operators,
    statistics,
)


def convolution(
    rng: np.random.Generator,
    back: bool,
    rank: int = 2,
    group: int = 1,
    bias: bool = True,
    batch: int | str = "batch",
    inputs: int = 4,
    outputs: int = 6,
    kernel: int = 3,
    **attributes: Any,
) -> Any:
    """Make Conv -> BatchNormalization, or the other way round."""
    constants = {"w": rng.normal(size=(outputs, inputs // group, *[kernel] * rank))}
    if bias:
        constants["b"] = rng.normal(size=outputs)
    names = ["w", "b"] if bias else ["w"]
    if back:
        nodes = [helper.make_node("Conv", ["x", *names], ["h"], name="conv", group=group, **attributes)]
        nodes.append(batchnorm("h", "y"))
        constants |= statistics(rng, outputs)
    else:
        nodes = [
            batchnorm("x", "h"),
            helper.make_node("Conv", ["h", *names], ["y"], name="conv", group=group, **attributes),
        ]
        constants |= statistics(rng, inputs)
    arrays = {"x": rng.normal(size=(2, inputs, *[7] * rank))}
    return model(nodes, {"x": [batch, inputs, *[7] * rank]}, ["y"], constants), arrays


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("back", [True, False])
def test_conv_absorbs_on_either_side(back: bool, bias: bool, rank: int, batch: int | str) -> None:
    source, inputs = convolution(np.random.default_rng(0), back, rank=rank, bias=bias, batch=batch)

    result, report = folded(source)

    assert operators(result) == ["Conv"]
    assert report.entries[0].outcome == (Outcome.FOLDED_BACK if back else Outcome.FOLDED_FORWARD)
    assert report.entries[0].into == ("conv",)
    assert_same(source, result, inputs)


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    back=st.booleans(),
    rank=st.integers(1, 3),
    group=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    pad=st.sampled_from([0, 0, 1]),
    kernel=st.integers(1, 3),
)
def test_conv_is_exact_whatever_its_attributes(
    seed: int, back: bool, rank: int, group: int, bias: bool, stride: int, dilation: int, pad: int, kernel: int
) -> None:
    source, inputs = convolution(
        np.random.default_rng(seed),
        back,
        rank=rank,
        group=group,
        bias=bias,
        outputs=8,
        kernel=kernel,
        strides=[stride] * rank,
        dilations=[dilation] * rank,
        pads=[pad] * rank * 2,
    )

    result, report = folded(source)

    assert (report.batchnorm_after == 0) == (back or pad == 0)
    assert len(result.graph.node) == 1 + report.batchnorm_after
    assert_same(source, result, inputs)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_batchnorm_before_automatic_padding_is_kept(auto_pad: str) -> None:
    source, _ = convolution(np.random.default_rng(1), back=False, auto_pad=auto_pad)

    result, report = folded(source)

    assert operators(result) == ["BatchNormalization", "Conv"]
    assert report.entries[0].reason_code == "graph-input/zero-padding"
    assert "zero padding" in (report.entries[0].reason or "")


@pytest.mark.parametrize(("auto_pad", "kernel"), [("VALID", 3), ("SAME_UPPER", 1)])
def test_conv_absorbs_forwards_where_automatic_padding_adds_nothing(auto_pad: str, kernel: int) -> None:
    source, inputs = convolution(np.random.default_rng(1), back=False, kernel=kernel, auto_pad=auto_pad, strides=[2, 2])

    result, _ = folded(source)

    assert operators(result) == ["Conv"]
    assert_same(source, result, inputs)


def test_padded_conv_absorbs_a_gain_without_offset_forwards() -> None:
    rng = np.random.default_rng(2)
    source, inputs = convolution(rng, back=False, bias=False, pads=[1, 1, 1, 1])
    zero = {"bn.shift", "bn.mean"}
    for initializer in source.graph.initializer:
        if initializer.name in zero:
            initializer.raw_data = bytes(len(initializer.raw_data))

    result, _ = folded(source)

    assert operators(result) == ["Conv"]
    assert len(result.graph.node[0].input) == 2
    assert_same(source, result, inputs)


def test_two_convs_that_share_a_weight_each_get_their_own() -> None:
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="first"),
        batchnorm("h", "y"),
        helper.make_node("Conv", ["x", "w"], ["z"], name="second"),
    ]
    constants = {"w": rng.normal(size=(3, 2, 1, 1))} | statistics(rng, 3)
    source = model(nodes, {"x": ["n", 2, 4, 4]}, ["y", "z"], constants)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert sorted(tensor.name for tensor in result.graph.initializer) == ["first.bias", "w", "w.1"]
    assert_same(source, result, {"x": rng.normal(size=(2, 2, 4, 4))})


def test_a_conv_that_reads_itself_the_other_way_round_is_left_alone() -> None:
    """The BatchNormalization makes the weight of a Conv: there is nothing constant to scale."""
    rng = np.random.default_rng(4)
    nodes = [batchnorm("k", "w"), helper.make_node("Conv", ["x", "w"], ["y"], name="conv")]
    source = model(nodes, {"x": [1, 2, 4, 4], "k": [3, 2, 1, 1]}, ["y"], statistics(rng, 2))

    _, report = folded(source)

    assert report.entries[0].reason_code == "graph-input/weights-not-constant"


def test_an_empty_bias_name_is_no_bias() -> None:
    rng = np.random.default_rng(5)
    nodes = [helper.make_node("Conv", ["x", "w", ""], ["h"]), batchnorm("h", "y")]
    source = model(nodes, {"x": [1, 2, 4, 4]}, ["y"], {"w": rng.normal(size=(3, 2, 1, 1))} | statistics(rng, 3))

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, {"x": rng.normal(size=(1, 2, 4, 4))})


def test_a_conv_between_two_batchnorms_takes_both_and_is_rounded_once() -> None:
    rng = np.random.default_rng(6)
    nodes = [batchnorm("x", "a", "first"), helper.make_node("Conv", ["a", "w"], ["b"]), batchnorm("b", "y", "second")]
    weight = rng.normal(size=(64, 64, 1, 1)).astype(np.float32)
    constants = {"w": weight} | statistics(rng, 64, "first", np.float32) | statistics(rng, 64, "second", np.float32)
    source = model(nodes, {"x": ["n", 64, 4, 4]}, ["y"], constants, dtype=np.float32)

    result, report = folded(source)

    assert operators(result) == ["Conv"]
    assert [entry.outcome for entry in report.entries] == [Outcome.FOLDED_FORWARD, Outcome.FOLDED_BACK]
    exact = weight.astype(np.float64)
    for name, axis in (("second", 0), ("first", 1)):
        gain = constants[f"{name}.scale"] / np.sqrt(constants[f"{name}.var"].astype(np.float64) + np.float32(1e-5))
        exact = exact * gain.reshape([-1 if index == axis else 1 for index in range(4)])
    got = next(tensor for tensor in result.graph.initializer if tensor.name == "w")
    np.testing.assert_array_equal(np.frombuffer(got.raw_data, np.float32), exact.astype(np.float32).ravel())


def padded_conv(rng: np.random.Generator, behind: list[Any], more: dict[str, Any], output: str, **changes: Any) -> Any:
    """Make a BatchNormalization, a zero-padded Conv, and what is behind it."""
    given = {"group": 1, "pads": [1, 2, 0, 1], "strides": [2, 1], "dilations": [1, 2]} | changes
    nodes = [batchnorm("x", "h"), helper.make_node("Conv", ["h", "w", "b"], ["c"], name="conv", **given), *behind]
    weight = rng.normal(size=(6, 4 // given["group"], 3, 2))
    constants = {"w": weight, "b": rng.normal(size=6)} | statistics(rng, 4) | more
    inputs = {"x": rng.normal(size=(2, 4, 5, 7))}
    return model(nodes, {"x": ["n", 4, 5, 7]}, [output], constants), inputs


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("positions", [True, False])
def test_a_map_of_offsets_goes_into_a_constant_behind_a_padded_conv(group: int, positions: bool) -> None:
    rng = np.random.default_rng(8)
    embedding = rng.normal(size=(1, 6, 2, 8) if positions else (6, 1, 1))
    behind = [helper.make_node("Add", ["c", "p"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    source, inputs = padded_conv(rng, behind, {"p": embedding}, "y", group=group)

    result, report = folded(source)

    assert operators(result) == ["Conv", "Add", "Relu"]
    assert report.entries[0].outcome == Outcome.FOLDED_FORWARD
    assert_same(source, result, inputs)


def test_the_mean_of_a_map_goes_into_a_gemm_behind_a_padded_conv() -> None:
    rng = np.random.default_rng(9)
    behind = [
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "m"], ["y"], name="gemm"),
    ]
    source, inputs = padded_conv(rng, behind, {"m": rng.normal(size=(6, 3))}, "y")

    result, report = folded(source)

    assert operators(result) == ["Conv", "GlobalAveragePool", "Flatten", "Gemm"]
    assert report.entries[0].into == ("conv", "gemm")
    assert_same(source, result, inputs)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_mean_takes_the_mean_of_a_map_along_one_axis(keepdims: int) -> None:
    rng = np.random.default_rng(10)
    behind = [
        helper.make_node("ReduceMean", ["c"], ["r"], axes=[3], keepdims=keepdims),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "m"], ["y"]),
    ]
    source, inputs = padded_conv(rng, behind, {"m": rng.normal(size=(12, 3))}, "y")

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, inputs)


def test_a_map_that_nothing_takes_up_is_not_made_and_the_padding_is_the_reason() -> None:
    rng = np.random.default_rng(11)
    source, _ = padded_conv(rng, [helper.make_node("Relu", ["c"], ["y"])], {}, "y")

    result, report = folded(source)

    assert operators(result) == ["BatchNormalization", "Conv", "Relu"]
    assert report.entries[0].reason_code == "graph-input/zero-padding"


def test_a_map_of_unknown_size_is_not_made() -> None:
    rng = np.random.default_rng(12)
    nodes = [
        batchnorm("x", "h"),
        helper.make_node("Conv", ["h", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "p"], ["y"]),
    ]
    constants = {"w": rng.normal(size=(6, 4, 3, 3)), "p": rng.normal(size=(6, 1, 1))} | statistics(rng, 4)
    source = model(nodes, {"x": ["n", 4, "height", 7]}, ["y"], constants)

    _, report = folded(source)

    assert report.entries[0].reason_code == "graph-input/zero-padding"


def test_a_map_that_costs_more_than_the_node_is_not_made() -> None:
    """Every row would read 512 channels of offsets, to spare a node that moves two."""
    rng = np.random.default_rng(13)
    nodes = [
        batchnorm("x", "h"),
        helper.make_node("Conv", ["h", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "p"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    constants = {"w": rng.normal(size=(512, 2, 3, 3)), "p": rng.normal(size=(512, 8, 1))} | statistics(rng, 2)
    source = model(nodes, {"x": ["n", 2, 8, 8]}, ["y"], constants)

    _, report = folded(source)

    assert report.entries[0].reason_code == "graph-input/cost"


def test_conv_with_a_bias_that_is_no_vector_is_left_alone() -> None:
    """PyTorch's exporter writes such a bias for 3-D convolutions without one; ONNX Runtime does not run it."""
    rng = np.random.default_rng(0)
    nodes, constants = conv_batchnorm(rng)
    nodes[0].input.append("b")

    _, report = folded(model(nodes, IMAGE, ["y"], constants | {"b": np.zeros((3, 2))}))

    assert (report.batchnorm_after, report.kept) == (1, {"weight-rank/graph-output": 1})
    assert "its bias has the shape [3, 2], where a convolution's is a vector" in str(report.entries[0].reason)

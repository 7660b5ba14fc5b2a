"""A Conv whose weight is integers behind a DequantizeLinear: gains go into scales, offsets into a float bias."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.support.fold.stored import (
    INPUTS,
    KERNEL,
    LAST,
    OUTPUTS,
    Stored,
    assert_same_optimised,
    constant,
    conv,
    parameters,
    picture,
    signed,
    stored_forms,
)
from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, run32


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("form", stored_forms())
def test_conv_with_a_quantised_weight_absorbs(form: str, negative: bool) -> None:
    source = conv(stored_forms()[form], negative)

    result, _ = folded(source)

    assert operators(result) == ["DequantizeLinear", "Conv", *LAST]
    assert (constant(result, "s") > 0).all()
    assert constant(result, "q").dtype == constant(source, "q").dtype
    assert_same(source, result, picture())
    assert_same_optimised(source, result, picture())


@pytest.mark.parametrize(
    ("dtype", "low", "high", "zero_point"),
    [
        (ml_dtypes.int4, -7, 8, None),
        (ml_dtypes.uint4, 0, 16, 8),
        (ml_dtypes.uint4, 0, 16, 3),
        (np.int16, -3000, 3000, 0),
        (np.uint16, 0, 65536, 32768),
    ],
)
def test_weight_of_other_integers_absorbs(dtype: Any, low: int, high: int, zero_point: int | None) -> None:
    integers = np.random.default_rng(4).integers(low, high, KERNEL).astype(dtype)
    source = conv(Stored(integers, zero_point=zero_point), negative=True, opset=21)

    result, _ = folded(source)

    assert operators(result) == ["DequantizeLinear", "Conv", *LAST]
    assert_same(source, result, picture())


def test_conv_with_a_quantised_weight_keeps_its_float_bias_exact() -> None:
    bias = np.random.default_rng(5).normal(size=OUTPUTS).astype(np.float32)
    source = conv(stored_forms()["int8, a scale for each channel"], negative=True, bias=bias)

    result, _ = folded(source)

    assert operators(result) == ["DequantizeLinear", "Conv", *LAST]
    assert_same(source, result, picture())


@pytest.mark.parametrize(
    ("stored", "opset", "scale", "because"),
    [
        (Stored(np.full(KERNEL, -128, np.int8)), 17, None, "hold -128"),
        (Stored(np.full(KERNEL, 5, np.int8), zero_point=3), 17, None, "zero point of its signed integers is not zero"),
        (Stored(np.full(KERNEL, 5, np.int8)), 17, 0.0, "gain of zero"),
        (Stored(np.full(KERNEL, 5, np.int8)), 17, 1e-38, "not a normal number"),
        (Stored(np.full(KERNEL, 5, np.int8), axis=None), 12, None, "until opset 12 it has one scale"),
        (Stored(np.full(KERNEL, 5, np.int8), axis=1), 17, None, "not those of its outputs"),
    ],
)
def test_conv_with_a_quantised_weight_that_cannot_take_the_gain_keeps(
    stored: Stored, opset: int, scale: float | None, because: str
) -> None:
    source = conv(stored, negative=True, opset=opset)
    if scale is not None:
        (found,) = [one for one in source.graph.initializer if one.name == "bn.scale"]
        found.CopyFrom(numpy_helper.from_array(np.array([scale, *[1.0] * 5], np.float32), "bn.scale"))

    result, report = folded(source)

    (entry,) = report.entries
    assert entry.reason_code == "quantized-weight/non-linear" or entry.reason_codes[0] == "quantized-weight"
    assert entry.reason is not None
    assert because in entry.reason
    assert_same(source, result, picture())


def test_uniform_gain_needs_no_scale_for_each_channel() -> None:
    rng = np.random.default_rng(7)
    source = conv(Stored(signed(rng, *KERNEL), axis=None), opset=12)
    uniform = {"scale": 0.5, "var": 1.0}
    for name, number in uniform.items():
        (found,) = [one for one in source.graph.initializer if one.name == f"bn.{name}"]
        found.CopyFrom(numpy_helper.from_array(np.full(OUTPUTS, number, np.float32), f"bn.{name}"))

    result, _ = folded(source)

    assert operators(result) == ["DequantizeLinear", "Conv", *LAST]
    assert constant(result, "s").shape == ()
    assert_same(source, result, picture())


@pytest.mark.parametrize("reader", ["output", "node"])
def test_quantised_weight_that_is_read_elsewhere_keeps(reader: str) -> None:
    source = conv(stored_forms()["int8, a scale for each channel"])
    if reader == "output":
        source.graph.output.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, KERNEL))
    else:
        source.graph.node.append(helper.make_node("Conv", ["x", "w"], ["other"]))
        source.graph.output.append(onnx.ValueInfoProto(name="other"))

    result, report = folded(onnx.shape_inference.infer_shapes(source))

    assert report.entries[0].reason_codes[0] == "other-readers"
    assert_same(source, result, picture())


def test_integers_that_two_nodes_share_are_copied() -> None:
    source = conv(stored_forms()["int8, a scale for each channel"], negative=True)
    other = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["v"], axis=0),
        helper.make_node("Conv", ["x", "v"], ["other"]),
    ]
    source.graph.node.extend(other)
    source.graph.output.append(onnx.ValueInfoProto(name="other"))
    source = onnx.shape_inference.infer_shapes(source)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, picture())


def test_weight_that_training_with_quantisation_left_in_float_is_quantised() -> None:
    """QuantizeLinear of the float weight, then DequantizeLinear: the integers are those that a runtime computes."""
    source = conv(stored_forms()["int8, a scale for each channel"], negative=True)
    rng = np.random.default_rng(9)
    weight = rng.normal(size=KERNEL).astype(np.float32)
    (found,) = [one for one in source.graph.initializer if one.name == "q"]
    found.CopyFrom(numpy_helper.from_array(weight, "f"))
    source.graph.node.insert(0, helper.make_node("QuantizeLinear", ["f", "s", "z"], ["q"], axis=0))
    (scales,) = [one for one in source.graph.initializer if one.name == "s"]
    scales.CopyFrom(numpy_helper.from_array(np.abs(weight).max(axis=(1, 2, 3)) / np.float32(127), "s"))

    result, _ = folded(source)

    assert operators(result) == ["DequantizeLinear", "Conv", *LAST]
    assert_same(source, result, picture())


def quantised_both(rng: np.random.Generator, offset: bool) -> onnx.ModelProto:
    """Make a network of pairs: input, weight (int8), bias (int32, input scale times weight scale) and output."""
    stored = Stored(signed(rng, *KERNEL))
    constants: dict[str, Any] = stored.constants(rng) | parameters(rng, OUTPUTS)
    if not offset:
        constants |= {f"bn.{name}": np.zeros(OUTPUTS, np.float32) for name in ("shift", "mean")}
    constants |= {"xs": np.float32(0.02), "xz": np.uint8(128), "ys": np.float32(0.05), "yz": np.uint8(3)}
    constants |= {"bq": rng.integers(-2000, 2000, OUTPUTS).astype(np.int32), "bs": constants["s"] * np.float32(0.02)}
    constants |= {"bz": np.zeros(OUTPUTS, np.int32)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        stored.node(),
        helper.make_node("DequantizeLinear", ["bq", "bs", "bz"], ["b"], axis=0),
        helper.make_node("Conv", ["xd", "w", "b"], ["c"], name="conv", pads=[1] * 4),
        batchnorm("c", "n"),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "ys", "yz"], ["rq"]),
        helper.make_node("DequantizeLinear", ["rq", "ys", "yz"], ["y"]),
    ]
    return model(nodes, {"x": ["n", INPUTS, 5, "width"]}, ["y"], constants, 17, np.float32)


@pytest.mark.parametrize("offset", [False, True])
def test_bias_behind_a_dequantizelinear_becomes_a_float(offset: bool) -> None:
    source = quantised_both(np.random.default_rng(11), offset)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert operators(result).count("DequantizeLinear") == 3
    (layer,) = [node for node in result.graph.node if node.op_type == "Conv"]
    assert constant(result, layer.input[2]).dtype == np.float32
    assert_same(source, result, picture())
    wanted, got = (run32(one, picture(), optimised=True)[0] for one in (source, result))
    assert np.abs(wanted - got).max() <= 0.05 * 1.001  # one step of the output, which is rounded after the layer

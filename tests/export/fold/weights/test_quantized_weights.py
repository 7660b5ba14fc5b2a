"""Layers whose weight is integers behind a DequantizeLinear: gains go into scales, offsets into a float bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper, numpy_helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, run32

OUTPUTS, INPUTS = 6, 4
LAST = ["Relu"]


@dataclass
class Stored:
    """A weight's integers and how they are scaled: None for one scale, else the axis of the scales."""

    integers: np.ndarray
    axis: int | None = 0
    zero_point: int | None = 0

    def constants(self, rng: np.random.Generator, dtype: Any = np.float32) -> dict[str, np.ndarray]:
        """Return q, and the scale and zero point of the right shape."""
        size = () if self.axis is None else (self.integers.shape[self.axis],)
        found = {"q": self.integers, "s": rng.uniform(0.01, 0.05, size).astype(dtype)}
        if self.zero_point is not None:
            found["z"] = np.full(size, self.zero_point, self.integers.dtype)
        return found

    def node(self) -> NodeProto:
        """Return the DequantizeLinear: q, s, z -> w."""
        names = ["q", "s"] if self.zero_point is None else ["q", "s", "z"]
        attributes: dict[str, Any] = {} if self.axis is None else {"axis": self.axis}
        return helper.make_node("DequantizeLinear", names, ["w"], name="dequantize", **attributes)


def parameters(rng: np.random.Generator, channels: int, negative: bool = False, dtype: Any = np.float32) -> Any:
    """Return those of a BatchNormalization: no gain is zero; one is negative where asked."""
    scale = rng.uniform(0.5, 1.5, channels)
    scale[1] *= -1 if negative else 1
    fields = {"scale": scale, "shift": rng.normal(size=channels), "mean": rng.normal(size=channels)}
    fields["var"] = rng.uniform(0.5, 2.0, channels)
    return {f"bn.{name}": array.astype(dtype) for name, array in fields.items()}


def signed(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-127, 128, shape).astype(np.int8)


def unsigned(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape).astype(np.uint8)


def conv(
    stored: Stored, negative: bool = False, bias: Any = None, opset: int = 17, seed: int = 0, **attributes: Any
) -> onnx.ModelProto:
    """Make x -> Conv with a stored weight -> BatchNormalization -> Relu -> y."""
    rng = np.random.default_rng(seed)
    operands = ["x", "w"] if bias is None else ["x", "w", "b"]
    nodes = [
        stored.node(),
        helper.make_node("Conv", operands, ["c"], name="conv", pads=[1] * 4, **attributes),
        batchnorm("c", "n"),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    constants = stored.constants(rng) | parameters(rng, OUTPUTS, negative) | ({} if bias is None else {"b": bias})
    return model(nodes, {"x": ["n", INPUTS, 5, "width"]}, ["y"], constants, opset, np.float32)


def picture() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(size=(2, INPUTS, 5, 7)).astype(np.float32)}


def assert_same_optimised(source: onnx.ModelProto, result: onnx.ModelProto, inputs: Any) -> None:
    """Check that ONNX Runtime, all of its optimisations on, gives what the source gives without them.

    Where it computes the source with integers (MatMulNBits), the result may be as far off as that is.
    """
    ((exact,), (wanted,), (got,)) = (run32(source, inputs), run32(source, inputs, True), run32(result, inputs, True))
    allowed = max(1e-5 * max(1.0, float(np.abs(exact).max())), float(np.abs(wanted - exact).max()))
    assert np.abs(got - exact).max() <= allowed


def constant(proto: onnx.ModelProto, name: str) -> np.ndarray:
    (found,) = [one for one in proto.graph.initializer if one.name == name]
    return numpy_helper.to_array(found)


KERNEL = (OUTPUTS, INPUTS, 3, 3)


def stored_forms() -> dict[str, Stored]:
    rng = np.random.default_rng(3)
    return {
        "int8, a scale for each channel": Stored(signed(rng, *KERNEL)),
        "int8, one scale": Stored(signed(rng, *KERNEL), axis=None),
        "int8 without a zero point": Stored(signed(rng, *KERNEL), zero_point=None),
        "uint8 around 128": Stored(unsigned(rng, *KERNEL), zero_point=128),
        "uint8 around 128, one scale": Stored(unsigned(rng, *KERNEL), axis=None, zero_point=128),
        "uint8 around 3": Stored(unsigned(rng, *KERNEL), zero_point=3),
        "uint8 without a zero point": Stored(unsigned(rng, *KERNEL), zero_point=None),
        "uint8, one scale and no zero point": Stored(unsigned(rng, *KERNEL), axis=None, zero_point=None),
    }


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


def before(kind: str, group: int, stored: Stored, uniform: bool, activations: bool) -> onnx.ModelProto:
    """Make x -> BatchNormalization -> Conv or Gemm with a stored weight -> y, inputs and outputs quantised if asked."""
    rng = np.random.default_rng(13)
    attributes: dict[str, Any] = {"group": group} if group > 1 else {}
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        batchnorm("xd" if activations else "r", "n"),
        stored.node(),
        helper.make_node(kind, ["n", "w"], ["c"], name="layer", **attributes),
        helper.make_node("Identity", ["yd" if activations else "c"], ["y"]),
    ]
    constants: dict[str, Any] = stored.constants(rng) | parameters(rng, INPUTS, negative=not uniform)
    if uniform or activations:
        constants |= {f"bn.{name}": np.zeros(INPUTS, np.float32) for name in ("shift", "mean")}
    if uniform:
        constants |= {"bn.scale": np.full(INPUTS, -0.5, np.float32), "bn.var": np.ones(INPUTS, np.float32)}
    if activations:
        constants |= {"as": np.float32(0.02), "az": np.uint8(128)}
        for source, result, place in (("r", "x", 1), ("c", "y", 6)):
            pair = [("QuantizeLinear", source, f"{result}q"), ("DequantizeLinear", f"{result}q", f"{result}d")]
            for op_type, given, made in reversed(pair):
                nodes.insert(min(place, len(nodes) - 1), helper.make_node(op_type, [given, "as", "az"], [made]))
    shape = ["n", INPUTS, 5, 7] if kind == "Conv" else ["n", INPUTS]
    return model(nodes, {"x": shape}, ["y"], constants, 17, np.float32)


def rows(source: onnx.ModelProto) -> dict[str, np.ndarray]:
    shape = [one.dim_value or 2 for one in source.graph.input[0].type.tensor_type.shape.dim]
    return {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}


@pytest.mark.parametrize("axis", [0, None])
@pytest.mark.parametrize("form", ["depthwise", "uniform", "Gemm, uniform"])
@pytest.mark.parametrize("activations", [False, True])
def test_quantised_weight_absorbs_what_comes_before(form: str, axis: int | None, activations: bool) -> None:
    rng = np.random.default_rng(14)
    kind = "Gemm" if "Gemm" in form else "Conv"
    shape = (INPUTS, INPUTS) if kind == "Gemm" else (INPUTS, 1 if form == "depthwise" else INPUTS, 1, 1)
    stored = Stored(signed(rng, *shape), axis=1 if kind == "Gemm" and axis == 0 else axis)
    source = before(kind, INPUTS if form == "depthwise" else 1, stored, "uniform" in form, activations)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, rows(source))
    wanted, got = (run32(one, rows(source), optimised=True)[0] for one in (source, result))
    assert np.abs(wanted - got).max() <= (0.02 * 1.001 if activations else 1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", ["Conv", "Gemm"])
@pytest.mark.parametrize("vector", [False, True])
def test_quantised_weight_gets_no_scales_along_its_inputs(kind: str, vector: bool) -> None:
    """ONNX Runtime's kernels of integers would take them for scales of the outputs."""
    rng = np.random.default_rng(16)
    shape = (INPUTS, INPUTS, 1, 1) if kind == "Conv" else (INPUTS, INPUTS)
    stored = Stored(signed(rng, *shape), axis=(1 if kind == "Conv" else 0) if vector else None)
    source = before(kind, 1, stored, uniform=False, activations=True)

    result, report = folded(source)

    (entry,) = report.entries
    assert entry.reason_codes[1] == "quantized-weight"
    wanted, got = (run32(one, rows(source), optimised=True)[0] for one in (source, result))
    assert np.array_equal(wanted, got)


@pytest.mark.parametrize("kind", ["MatMul", "MatMul of a Transpose", "Gemm", "Gemm with transB", "MatMul, Flatten"])
@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("negative", [False, True])
def test_dense_layer_with_a_quantised_weight_absorbs(kind: str, axis: int | None, negative: bool) -> None:
    rng = np.random.default_rng(15)
    turned = kind in ("MatMul of a Transpose", "Gemm with transB")
    shape = (OUTPUTS, INPUTS) if turned else (INPUTS, OUTPUTS)
    stored = Stored(signed(rng, *shape), axis=axis if axis is None or turned else 1)
    layer = helper.make_node(
        kind.split(",")[0].split(" ")[0], ["x", "v" if "Transpose" in kind else "w"], ["c"], name="layer"
    )
    if kind == "Gemm with transB":
        layer.attribute.append(helper.make_attribute("transB", 1))
    nodes = [stored.node(), helper.make_node("Transpose", ["w"], ["v"])] if "Transpose" in kind else [stored.node()]
    nodes += [layer, helper.make_node("Flatten", ["c"], ["f"], axis=2)] if "Flatten" in kind else [layer]
    nodes += [batchnorm("f" if "Flatten" in kind else "c", "n"), helper.make_node("Relu", ["n"], ["y"])]
    constants = stored.constants(rng) | parameters(rng, OUTPUTS, negative)
    shape_of_rows: list[Any] = ["n", 3, INPUTS] if "Flatten" in kind else ["n", INPUTS]
    source = model(nodes, {"x": shape_of_rows}, ["y"], constants, 17, np.float32)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert "Gemm" in operators(result)
    assert "MatMul" not in operators(result)
    inputs = {"x": rng.normal(size=[2 if size == "n" else size for size in shape_of_rows]).astype(np.float32)}
    assert_same(source, result, inputs)
    assert_same_optimised(source, result, inputs)


def test_conv_transpose_with_a_quantised_weight_absorbs() -> None:
    rng = np.random.default_rng(17)
    stored = Stored(signed(rng, INPUTS, OUTPUTS, 2, 2), axis=1)
    nodes = [
        stored.node(),
        helper.make_node("ConvTranspose", ["x", "w"], ["c"], name="conv", strides=[2, 2]),
        batchnorm("c", "n"),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    constants = stored.constants(rng) | parameters(rng, OUTPUTS, negative=True)
    source = model(nodes, {"x": ["n", INPUTS, 5, 7]}, ["y"], constants, 17, np.float32)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, picture())
    assert_same_optimised(source, result, picture())


@pytest.mark.parametrize("group", [2, OUTPUTS])
def test_conv_of_groups_with_a_quantised_weight_absorbs(group: int) -> None:
    rng = np.random.default_rng(19)
    stored = Stored(signed(rng, OUTPUTS, OUTPUTS // group, 3, 3))
    nodes = [
        stored.node(),
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", group=group),
        batchnorm("c", "n"),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    constants = stored.constants(rng) | parameters(rng, OUTPUTS, negative=True)
    source = model(nodes, {"x": ["n", OUTPUTS, 5, 7]}, ["y"], constants, 17, np.float32)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, {"x": rng.normal(size=(2, OUTPUTS, 5, 7)).astype(np.float32)})


@pytest.mark.parametrize(("axis", "count"), [(0, 0), (1, 1)])
def test_weight_with_scales_for_blocks_absorbs_along_the_other_axis(axis: int, count: int) -> None:
    """Blocks of two along the contracted axis have a scale for each column; blocks of columns do not."""
    rng = np.random.default_rng(21)
    columns = 4
    integers = rng.integers(-7, 8, (INPUTS, columns)).astype(np.int8)
    sizes = [INPUTS, columns]
    sizes[axis] //= 2
    constants = {"q": integers, "s": rng.uniform(0.01, 0.05, sizes).astype(np.float32)} | parameters(rng, columns, True)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=axis, block_size=2),
        helper.make_node("MatMul", ["x", "w"], ["c"], name="layer"),
        batchnorm("c", "n"),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    source = model(nodes, {"x": ["n", INPUTS]}, ["y"], constants, 21, np.float32)

    result, report = folded(source)

    assert report.batchnorm_after == count
    assert_same(source, result, {"x": rng.normal(size=(3, INPUTS)).astype(np.float32)})


def test_float16_scale_that_would_overflow_or_lose_digits_keeps() -> None:
    rng = np.random.default_rng(23)
    stored = Stored(signed(rng, INPUTS, OUTPUTS), axis=1)
    nodes = [stored.node(), helper.make_node("MatMul", ["x", "w"], ["c"]), batchnorm("c", "y")]
    constants = stored.constants(rng, np.float16) | parameters(rng, OUTPUTS, dtype=np.float16)
    constants["bn.scale"] = np.full(OUTPUTS, 1e-3, np.float16)
    source = model(nodes, {"x": ["n", INPUTS]}, ["y"], constants, 19, np.float16)

    _, report = folded(source)

    (entry,) = report.entries
    assert entry.reason_codes[0] == "quantized-weight"
    assert entry.reason is not None
    assert "not a normal number of type float16" in entry.reason

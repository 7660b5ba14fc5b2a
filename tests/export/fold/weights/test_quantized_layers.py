"""Quantised weights of other layers than a Conv, of groups and blocks, and before a BatchNormalization."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.support.fold.stored import INPUTS, OUTPUTS, Stored, assert_same_optimised, parameters, picture, signed
from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, run32


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

"""A network that is prepared for ONNX Runtime's quantiser computes what it did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from normfold.export.errors import QuantizeError
from normfold.export.onnx_io.convert_opset import ConversionError
from normfold.export.quantize.int8.prepare import prepare
from tests.support import onnx_models
from tests.support.onnx_models import assert_same, model, operators

ROWS = {"x": np.random.default_rng(0).normal(size=(3, 4, 5, 5)).astype(np.float32)}


def prepared(source: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    result: onnx.ModelProto = ir.to_proto(prepare(onnx_models.save_model(source, folder)))
    onnx.checker.check_model(result, full_check=True)
    return result


def network(nodes: list[onnx.NodeProto], opset: int = 17, **constants: np.ndarray) -> onnx.ModelProto:
    given = {name: each.astype(np.float32) if each.dtype.kind == "f" else each for name, each in constants.items()}
    return model(nodes, {"x": ["n", 4, 5, 5]}, ["y"], given, opset=opset, dtype=np.float32)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("negative", [False, True])
def test_global_average_becomes_a_pool(tmp_path: Path, keepdims: int, opset: int, negative: bool) -> None:
    axes = [-1, -2] if negative else [2, 3]
    relu = helper.make_node("Relu", ["x"], ["r"])
    if opset < 18:
        mean = helper.make_node("ReduceMean", ["r"], ["y"], axes=axes, keepdims=keepdims)
        source = network([relu, mean], opset)
    else:
        mean = helper.make_node("ReduceMean", ["r", "axes"], ["y"], keepdims=keepdims)
        source = network([relu, mean], opset, axes=np.array(axes))
    result = prepared(source, tmp_path)
    assert operators(result) == ["Relu", "GlobalAveragePool", *([] if keepdims else ["Flatten"])]
    assert_same(source, result, ROWS)


@pytest.mark.parametrize("axes", [[1], [2], [1, 2, 3], [0, 2, 3]])
def test_other_mean_stays(tmp_path: Path, axes: list[int]) -> None:
    source = network([helper.make_node("ReduceMean", ["x"], ["y"], axes=axes)])
    assert operators(prepared(source, tmp_path)) == ["ReduceMean"]


def test_constant_nodes_become_initializers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.normal(size=(2, 4, 1, 1)).astype(np.float32))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weight),
        helper.make_node("Conv", ["x", "w"], ["y"], name="conv"),
    ]
    source = network(nodes)
    result = prepared(source, tmp_path)
    assert operators(result) == ["Conv"]
    assert_same(source, result, ROWS)


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 20])
def test_opset_is_13_at_least(tmp_path: Path, opset: int) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "c"], ["y"]),
    ]
    constants = {"w": rng.normal(size=(2, 4, 1, 1)), "b": rng.normal(size=2)}
    source = network(nodes, opset, **constants, v=rng.normal(size=(50, 3)), c=rng.normal(size=3))
    result = prepared(source, tmp_path)
    assert result.opset_import[0].version == max(opset, 13)
    assert result.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"
    assert_same(source, result, ROWS)


def test_layers_have_weights_and_biases_of_their_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"]),
        helper.make_node("Conv", ["h", "w", "b"], ["g"]),
        helper.make_node("Conv", ["g", "w"], ["y"]),
    ]
    source = network(nodes, w=rng.normal(size=(4, 4, 1, 1)), b=rng.normal(size=4))
    result = prepared(source, tmp_path)
    weights, biases = ({node.input[place] for node in result.graph.node} for place in (1, 2))
    assert (len(weights), len(biases)) == (3, 3)
    assert len({node.name for node in result.graph.node}) == 3
    assert_same(source, result, ROWS)


@pytest.mark.parametrize("shape", [(), (1,), (6,), (1, 6)])
@pytest.mark.parametrize("transposed", [0, 1])
def test_alpha_and_beta_of_a_gemm_become_part_of_its_weights(
    tmp_path: Path, shape: tuple[int, ...], transposed: int
) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "c"], ["y"], alpha=0.5, beta=3.0, transB=transposed),
    ]
    weight = rng.normal(size=(6, 100) if transposed else (100, 6))
    source = network(nodes, v=weight, c=np.asarray(rng.normal(size=shape)))
    result = prepared(source, tmp_path)
    assert {each.name for each in result.graph.node[1].attribute} <= {"transB"}
    assert_same(source, result, ROWS)


def test_quantised_network_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    source = network(nodes, s=np.float32(0.1) + np.zeros(()), z=np.zeros((), np.uint8))
    with pytest.raises(QuantizeError, match="is quantised already: its node .* is a QuantizeLinear"):
        prepared(source, tmp_path)


def test_float16_network_is_refused(tmp_path: Path) -> None:
    weight = np.ones((2, 4, 1, 1), np.float16)
    source = model(
        [helper.make_node("Conv", ["x", "w"], ["y"])], {"x": [1, 4, 5, 5]}, ["y"], {"w": weight}, dtype=np.float16
    )
    with pytest.raises(QuantizeError, match="holds float16 weights, such as 'w'"):
        prepared(source, tmp_path)


def test_network_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normfold.export.quantize.int8.prepare.MAX_BYTES", 100)
    source = network([helper.make_node("Conv", ["x", "w"], ["y"])], w=np.ones((8, 4, 1, 1)))
    with pytest.raises(QuantizeError, match="GiB of weights; ONNX Runtime's quantiser takes less than 2 GiB"):
        prepared(source, tmp_path)


def test_opset_that_cannot_be_converted_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_proto: onnx.ModelProto, _opset: int) -> onnx.ModelProto:
        raise ConversionError("no adapter for Foo")

    monkeypatch.setattr("normfold.export.quantize.int8.prepare.converted", refuse)
    source = network([helper.make_node("Relu", ["x"], ["y"])], opset=12)
    with pytest.raises(
        QuantizeError, match="has opset 12, int8 needs 13, and .* cannot convert it: no adapter for Foo"
    ):
        prepared(source, tmp_path)

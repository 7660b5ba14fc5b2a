"""Equalisation: channels of very different size become alike, the network computes what it did, others stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from normfold.export.onnx_io.model_file import load_model
from normfold.export.quantize.int8.prepare import prepare
from normfold.export.quantize.int8.ranges.from_samples import ranges_from_samples
from normfold.export.quantize.int8.result import EqualisedPair
from normfold.export.quantize.int8.weights.equalise import equalise, gain
from normfold.export.verify.runner import input_infos
from tests.support import onnx_models
from tests.support.onnx_models import assert_same, batchnorm, model, run32, statistics

ROWS = {"x": np.random.default_rng(1).normal(size=(40, 4, 6, 6)).astype(np.float32)}
FACTOR = 10.0 ** np.linspace(-1.5, 1.5, 8)


def network(nodes: list[onnx.NodeProto], **constants: np.ndarray) -> onnx.ModelProto:
    given = {name: each.astype(np.float32) for name, each in constants.items()}
    return model(nodes, {"x": ["n", 4, 6, 6]}, ["y"], given, dtype=np.float32)


def equalised(source: onnx.ModelProto, folder: Path) -> tuple[onnx.ModelProto, tuple[EqualisedPair, ...]]:
    """Equalise a network by the ranges of ROWS; check that it computes what it did, and that the ranges follow."""
    path = onnx_models.save_model(source, folder)
    prepared = prepare(path)
    infos = input_infos(path, prepared)
    ranges = ranges_from_samples(prepared, ROWS, infos)
    pairs = equalise(prepared, ranges)
    result: onnx.ModelProto = ir.to_proto(prepared)
    onnx.checker.check_model(result, full_check=True)
    assert_same(source, result, ROWS)
    for name, again in ranges_from_samples(prepared, ROWS, infos).items():
        np.testing.assert_allclose(ranges[name].high, again.high, rtol=1e-3, atol=1e-4)
    return result, pairs


def two_layers(
    rng: np.random.Generator, between: list[onnx.NodeProto], factor: np.ndarray, group: int = 1, outputs: int = 8
) -> onnx.ModelProto:
    """Make Conv, some nodes from `h` to `r`, and Conv; channels between them are multiplied by a factor."""
    second = rng.normal(size=(outputs, 8 // group, 3, 3))
    across = factor.reshape(group, 1, -1).repeat(outputs // group, axis=1).reshape(outputs, -1, 1, 1)
    return network(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["h"], name="first"),
            *between,
            helper.make_node("Conv", ["r", "v"], ["y"], name="second", group=group, pads=[1] * 4),
        ],
        w=rng.normal(size=(8, 4, 1, 1)) * factor.reshape(-1, 1, 1, 1),
        b=rng.normal(size=8) * factor,
        v=second / across,
    )


BETWEEN = {
    "nothing": [helper.make_node("Identity", ["h"], ["r"])],
    "Relu": [helper.make_node("Relu", ["h"], ["r"])],
    "LeakyRelu and MaxPool": [
        helper.make_node("LeakyRelu", ["h"], ["l"], alpha=0.1),
        helper.make_node("MaxPool", ["l"], ["r"], kernel_shape=[2, 2]),
    ],
    "AveragePool": [helper.make_node("AveragePool", ["h"], ["r"], kernel_shape=[2, 2])],
    "Add": [helper.make_node("Relu", ["h"], ["l"]), helper.make_node("Add", ["h", "l"], ["r"])],
}


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("group", [1, 2, 8])
def test_channels_over_three_decades_become_alike(tmp_path: Path, between: str, group: int) -> None:
    rng = np.random.default_rng(0)
    _, (pair,) = equalised(two_layers(rng, BETWEEN[between], FACTOR, group, outputs=16), tmp_path)
    assert (pair.first, pair.second) == ("first", "second")
    assert pair.spread_before > 300
    assert pair.spread_after < 10


def test_healthy_layers_stay(tmp_path: Path) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        _, pairs = equalised(two_layers(rng, BETWEEN["Relu"], rng.uniform(0.5, 2, 8)), tmp_path)
        assert pairs == ()


KEPT = {
    "Sigmoid": [helper.make_node("Sigmoid", ["h"], ["r"])],
    "Clip": [helper.make_node("Clip", ["h", "", "six"], ["r"])],
    "Add of a constant": [helper.make_node("Add", ["h", "six"], ["r"])],
    "Softmax beside it": [
        helper.make_node("Softmax", ["h"], ["p"]),
        helper.make_node("Relu", ["h"], ["l"]),
        helper.make_node("Mul", ["l", "p"], ["r"]),
    ],
}


@pytest.mark.parametrize("between", KEPT)
def test_operator_that_lets_no_factor_through_keeps_its_channels(tmp_path: Path, between: str) -> None:
    rng = np.random.default_rng(0)
    source = two_layers(rng, BETWEEN["Relu"], FACTOR)
    first, _, second = source.graph.node
    nodes = [first, *KEPT[between], second]
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in source.graph.initializer}
    assert equalised(network(nodes, **constants, six=np.array(6.0)), tmp_path)[1] == ()


def test_value_that_the_caller_reads_keeps_its_channels(tmp_path: Path) -> None:
    source = two_layers(np.random.default_rng(0), BETWEEN["Relu"], FACTOR)
    source.graph.output.append(helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, ["n", 8, 6, 6]))
    assert equalised(source, tmp_path)[1] == ()


def test_channels_before_a_gemm_become_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = network(
        [
            helper.make_node("Conv", ["x", "w"], ["h"], name="first"),
            helper.make_node("GlobalAveragePool", ["h"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "v"], ["y"], name="second", transB=1),
        ],
        w=rng.normal(size=(8, 4, 1, 1)) * FACTOR.reshape(-1, 1, 1, 1),
        v=rng.normal(size=(5, 8)) / FACTOR,
    )
    _, (pair,) = equalised(source, tmp_path)
    assert (pair.first, pair.second) == ("first", "second")


def test_residual_layers_take_one_factor(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    by_output, by_input = FACTOR.reshape(-1, 1, 1, 1), FACTOR.reshape(1, -1, 1, 1)
    source = network(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], name="stem"),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "v"], ["c"], name="inner"),
            helper.make_node("Add", ["b", "c"], ["d"]),
            helper.make_node("Conv", ["d", "u"], ["y"], name="last"),
        ],
        w=rng.normal(size=(8, 4, 1, 1)) * by_output,
        v=rng.normal(size=(8, 8, 1, 1)) * by_output / by_input,
        u=rng.normal(size=(3, 8, 1, 1)) / by_input,
    )
    _, (pair,) = equalised(source, tmp_path)
    assert (pair.first, pair.second) == ("stem, inner", "inner, last")


def test_batchnorm_that_is_kept_takes_the_factor(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parameters = statistics(rng, 4)
    factor = FACTOR[::2]
    parameters |= {"bn.scale": rng.uniform(0.5, 1, 4) * factor, "bn.shift": rng.normal(size=4) * factor}
    source = network(
        [
            batchnorm("x", "n"),
            helper.make_node("Relu", ["n"], ["r"]),
            helper.make_node("Conv", ["r", "v"], ["y"], name="second"),
        ],
        v=rng.normal(size=(3, 4, 1, 1)) / factor.reshape(1, -1, 1, 1),
        **parameters,
    )
    _, (pair,) = equalised(source, tmp_path)
    assert (pair.first, pair.second) == ("bn", "second")


def test_dead_channel_stays(tmp_path: Path) -> None:
    factor = FACTOR.copy()
    factor[3] = 0.0
    rng = np.random.default_rng(0)
    source = two_layers(rng, BETWEEN["Relu"], np.where(factor, factor, 1.0))
    for tensor in source.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        if tensor.name in ("w", "b"):
            array[3] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    result, (_,) = equalised(source, tmp_path)
    assert all(np.isfinite(each).all() for each in run32(result, ROWS))


def test_gain_is_1_where_channels_are_alike_and_large_where_they_are_not() -> None:
    ones = np.ones(8)
    assert gain(ones, [np.ones((1, 4, 8, 9))], ones) == 1
    assert gain(FACTOR, [(1 / FACTOR).reshape(1, 1, 8, 1)], FACTOR) > 1000
    assert gain(FACTOR, [np.ones((8, 1, 1, 9))], FACTOR) > 1000  # depthwise
    assert gain(np.zeros(8), [np.ones((1, 4, 8, 9))], ones) == 1


def test_network_without_pairs_stays(tmp_path: Path) -> None:
    source = network([helper.make_node("Conv", ["x", "w"], ["y"])], w=np.ones((2, 4, 1, 1)))
    assert equalised(source, tmp_path)[1] == ()
    assert load_model(tmp_path / "net.onnx").graph[0].op_type == "Conv"

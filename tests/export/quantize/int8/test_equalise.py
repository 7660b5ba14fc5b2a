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
from normfold.export.quantize.int8.weights.equalise import Read, best_factor, equalise, gain
from normfold.export.verify.runner import input_infos
from tests.support import onnx_models
from tests.support.onnx_models import assert_same, batchnorm, model, run32, statistics

ROWS = {"x": np.random.default_rng(1).normal(size=(40, 4, 6, 6)).astype(np.float32)}
FACTOR = 10.0 ** np.linspace(-1.5, 1.5, 8)


def network(nodes: list[onnx.NodeProto], **constants: np.ndarray) -> onnx.ModelProto:
    given = {name: each if each.dtype.kind == "i" else each.astype(np.float32) for name, each in constants.items()}
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
        if ranges[name].high.size == again.high.size:
            np.testing.assert_allclose(ranges[name].high, again.high, rtol=1e-3, atol=1e-4)
        else:  # channels on another axis than the second
            np.testing.assert_allclose(ranges[name].bounds, again.bounds, rtol=1e-3, atol=1e-4)
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


def conv(source: str, weight: str, result: str, name: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight], [result], name=name, **attributes)


def weights(rng: np.random.Generator, outputs: int, inputs: int) -> np.ndarray:
    return rng.normal(size=(outputs, inputs, 1, 1))


BY_OUTPUT, BY_INPUT = FACTOR.reshape(-1, 1, 1, 1), FACTOR.reshape(1, -1, 1, 1)


def test_channels_behind_a_concat_become_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = network(
        [
            conv("x", "w", "a", "first"),
            helper.make_node("Relu", ["a"], ["b"]),
            conv("x", "u", "c", "second"),
            helper.make_node("Concat", ["b", "c"], ["d"], axis=1),
            helper.make_node("MaxPool", ["d"], ["e"], kernel_shape=[2, 2]),
            conv("e", "v", "f", "third"),
            conv("b", "t", "g", "fourth"),
            helper.make_node("GlobalAveragePool", ["f"], ["h"]),
            helper.make_node("Add", ["h", "g"], ["y"]),
        ],
        w=weights(rng, 8, 4) * BY_OUTPUT,
        u=weights(rng, 8, 4) / BY_OUTPUT,
        v=weights(rng, 5, 16) / np.concatenate([FACTOR, 1 / FACTOR]).reshape(1, -1, 1, 1),
        t=weights(rng, 5, 8) / BY_INPUT,
    )
    _, (pair,) = equalised(source, tmp_path)
    assert (pair.first, pair.second) == ("first, second", "third, fourth")
    assert set(pair.values) == {"a", "b", "c", "d", "e"}
    assert pair.spread_before > 300
    assert pair.spread_after < 20


def test_part_of_a_concat_that_takes_no_factor_stays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = network(
        [
            conv("x", "w", "a", "first"),
            helper.make_node("Sigmoid", ["x"], ["s"]),
            helper.make_node("Concat", ["s", "a"], ["d"], axis=1),
            conv("d", "v", "y", "second"),
        ],
        w=weights(rng, 8, 4) * BY_OUTPUT,
        v=weights(rng, 5, 12) / np.concatenate([np.ones(4), FACTOR]).reshape(1, -1, 1, 1),
    )
    result, (pair,) = equalised(source, tmp_path)
    assert pair.spread_after < 20
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    before = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in source.graph.initializer}
    np.testing.assert_array_equal(found["v"][:, :4], before["v"][:, :4])
    assert not np.allclose(found["v"][:, 4:], before["v"][:, 4:])


def test_dense_block_with_batchnorms_becomes_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    factor = 10.0 ** np.linspace(-1.5, 1.5, 12)
    parameters = statistics(rng, 12)
    parameters |= {"bn.mean": parameters["bn.mean"] * factor}
    parameters |= {"bn.var": parameters["bn.var"] * factor**2}
    source = network(
        [
            conv("x", "w", "a", "first"),
            conv("a", "u", "c", "second"),
            helper.make_node("Concat", ["a", "c"], ["z"], axis=1),
            batchnorm("z", "n"),
            helper.make_node("Relu", ["n"], ["r"]),
            conv("r", "v", "y", "third"),
        ],
        w=weights(rng, 8, 4) * factor[:8].reshape(-1, 1, 1, 1),
        u=weights(rng, 4, 8) * factor[8:].reshape(-1, 1, 1, 1) / factor[:8].reshape(1, -1, 1, 1),
        v=weights(rng, 3, 12),
        **parameters,
    )
    _, (pair,) = equalised(source, tmp_path)
    assert (pair.first, pair.second) == ("first, second", "second, bn")
    assert pair.spread_before > 300
    assert pair.spread_after < 20


PASSED = {
    "Flatten": [
        helper.make_node("Flatten", ["h"], ["f"]),
        helper.make_node("Gemm", ["f", "flat"], ["y"], name="second"),
    ],
    "Split": [
        helper.make_node("Split", ["h"], ["p", "q"], axis=1),
        conv("p", "low", "r", "second"),
        conv("q", "high", "s", "third"),
        helper.make_node("Add", ["r", "s"], ["y"]),
    ],
    "channel shuffle": [
        helper.make_node("Reshape", ["h", "groups"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["b", "joined"], ["c"]),
        conv("c", "shuffled", "y", "second"),
    ],
    "gate": [
        helper.make_node("GlobalAveragePool", ["h"], ["a"]),
        conv("a", "all", "b", "gate"),
        helper.make_node("Sigmoid", ["b"], ["c"]),
        helper.make_node("Mul", ["h", "c"], ["d"]),
        conv("d", "all2", "y", "second"),
    ],
    "ConvTranspose": [
        helper.make_node("ConvTranspose", ["h", "up"], ["u"], name="up", group=2),
        conv("u", "all", "y", "second"),
    ],
    "Max of two": [
        conv("x", "w2", "k", "other"),
        helper.make_node("Max", ["h", "k"], ["m"]),
        conv("m", "all", "y", "second"),
    ],
    "Resize": [
        helper.make_node("Resize", ["h", "", "scales"], ["m"], mode="linear"),
        conv("m", "all", "y", "second"),
    ],
}


@pytest.mark.parametrize("behind", PASSED)
def test_factor_passes(tmp_path: Path, behind: str) -> None:
    rng = np.random.default_rng(0)
    by_pixel = FACTOR.repeat(36).reshape(-1, 1)
    constants = {
        "flat": rng.normal(size=(288, 3)) / by_pixel,
        "low": weights(rng, 3, 4) / BY_INPUT[:, :4],
        "high": weights(rng, 3, 4) / BY_INPUT[:, 4:],
        "shuffled": weights(rng, 3, 8) / FACTOR.reshape(2, 4).T.reshape(1, 8, 1, 1),
        "all": weights(rng, 8, 8) / BY_INPUT,
        "all2": weights(rng, 3, 8) / BY_INPUT,
        "up": rng.normal(size=(8, 4, 2, 2)) * FACTOR.reshape(2, 1, 4).repeat(4, axis=1).reshape(8, 4, 1, 1) / BY_OUTPUT,
        "w2": weights(rng, 8, 4) * BY_OUTPUT,
        "groups": np.array([0, 2, 4, 6, 6]),
        "joined": np.array([0, 8, 6, 6]),
        "scales": np.array([1.0, 1.0, 2.0, 2.0]),
    }
    read = {name for node in PASSED[behind] for name in node.input}
    source = network(
        [conv("x", "w", "h", "first"), *PASSED[behind]],
        w=weights(rng, 8, 4) * BY_OUTPUT,
        **{name: each for name, each in constants.items() if name in read},
    )
    _, pairs = equalised(source, tmp_path)
    assert pairs
    assert max(pair.spread_before for pair in pairs) > 20
    assert all(pair.spread_after < 20 for pair in pairs)


KEPT = {
    "Sigmoid": [helper.make_node("Sigmoid", ["h"], ["r"])],
    "Clip": [helper.make_node("Clip", ["h", "", "six"], ["r"])],
    "Add of a constant": [helper.make_node("Add", ["h", "six"], ["r"])],
    "MatMul of two values": [
        helper.make_node("Transpose", ["h"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["h", "t"], ["r"]),
    ],
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
    def gain_of(ranges: np.ndarray, weight: np.ndarray, rounds_weight: bool = True) -> float:
        read = [Read(ranges, weight, np.arange(8), rounds_weight)]
        return gain(read, [each.scaled(best_factor(read, 8)) for each in read])

    ones = np.ones(8)
    assert gain_of(ones, np.ones((1, 4, 8, 9))) == pytest.approx(1)
    assert gain_of(FACTOR, (1 / FACTOR).reshape(1, 1, 8, 1)) > 1000
    assert gain_of(FACTOR, np.ones((8, 1, 1, 9))) > 100  # depthwise
    assert gain_of(FACTOR, np.ones((8, 1, 1, 1)), rounds_weight=False) > 1000  # a BatchNormalization
    assert gain_of(np.zeros(8), np.ones((1, 4, 8, 9))) == 1


def test_factors_follow_the_channels_that_take_none() -> None:
    ranges, weights = np.array([1e3, 1e-3, 2.0]), np.array([1e-3, 1e3, 0.5])
    factor = best_factor([Read(ranges, weights.reshape(1, 1, 3, 1), np.arange(3))], 2)
    assert factor[2] == 1
    np.testing.assert_allclose(ranges / factor, 2)
    np.testing.assert_allclose(weights * factor, 0.5)


def test_network_without_pairs_stays(tmp_path: Path) -> None:
    source = network([helper.make_node("Conv", ["x", "w"], ["y"])], w=np.ones((2, 4, 1, 1)))
    assert equalised(source, tmp_path)[1] == ()
    assert load_model(tmp_path / "net.onnx").graph[0].op_type == "Conv"

"""Ranges of activations: from samples they are what the values take, from statistics they cover it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from normfold.export.errors import QuantizeError, SampleError
from normfold.export.fold.fold import fold
from normfold.export.graph.inference import infer_shapes
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.quantize.channel_statistics import of_graph, of_report
from normfold.export.quantize.int8.prepare import prepare
from normfold.export.quantize.int8.ranges.channel_ranges import ChannelRange
from normfold.export.quantize.int8.ranges.from_samples import ranges_from_samples
from normfold.export.quantize.int8.ranges.from_statistics import ranges_from_statistics
from normfold.export.quantize.int8.result import Int8Options
from normfold.export.verify.runner import input_infos
from tests.support import onnx_models
from tests.support.onnx_models import batchnorm, classifier, classifier_rows, model, run32, statistics, with_output


def of_statistics(
    source: onnx.ModelProto, folder: Path, sigmas: float = 8.0, unfolded: bool = True, **inputs: tuple[float, float]
) -> tuple[onnx.ModelProto, dict[str, ChannelRange]]:
    """Return the folded network, and the ranges of its values from statistics alone."""
    path, target = onnx_models.save_model(source, folder), folder / "folded.onnx"
    working = load_model(path)
    found = of_report(fold(working))
    save_model(working, target)
    before = load_model(path)
    infer_shapes(before)
    prepared = prepare(target)
    ranges = ranges_from_statistics(prepared, before if unfolded else None, found, inputs, Int8Options(sigmas=sigmas))
    return onnx.load(target), ranges


def share_inside(folded: onnx.ModelProto, name: str, rows: dict[str, np.ndarray], known: ChannelRange) -> float:
    """Return the share of a value's numbers that lie within its range."""
    (values,) = run32(with_output(folded, name), rows)
    low, high = known.bounds
    return float(np.mean((values >= low - 1e-4) & (values <= high + 1e-4)))


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Sigmoid", "HardSwish"])
@pytest.mark.parametrize("unfolded", [True, False])
def test_ranges_from_statistics_cover_what_values_take(tmp_path: Path, activation: str, unfolded: bool) -> None:
    rng = np.random.default_rng(0)
    folded, ranges = of_statistics(classifier(rng, activation=activation), tmp_path, unfolded=unfolded)
    rows = classifier_rows(rng, 200)
    names = [name for node in folded.graph.node for name in node.output]
    assert ranges.keys() >= {*names, "x"}
    for name in names:
        assert share_inside(folded, name, rows, ranges[name]) > 0.9999, name
        (values,) = run32(with_output(folded, name), rows)
        low, high = ranges[name].bounds
        # The mean of independent positions hardly varies; that of a picture's does, and its range is kept.
        assert high - low < (40 if name in ("pooled", "features", "y") else 5) * np.ptp(values), name


def test_ranges_of_one_standard_deviation_do_not_cover(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folded, ranges = of_statistics(classifier(rng), tmp_path, sigmas=1.0)
    assert share_inside(folded, "r0", classifier_rows(rng, 50), ranges["r0"]) < 0.99


def test_range_of_a_relu_begins_at_0_and_that_of_a_clip_ends_at_its_limit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    _, ranges = of_statistics(classifier(rng), tmp_path)
    assert all(ranges[name].bounds[0] == 0 for name in ("r0", "r1", "r2", "pooled"))
    clip = helper.make_node("Clip", ["n", "low", "high"], ["y"])
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), batchnorm("h", "n"), clip]
    constants = {"w": rng.normal(size=(3, 2, 1, 1)), "low": np.array(0), "high": np.array(0.5)} | statistics(rng, 3)
    source = model(
        nodes,
        {"x": ["n", 2, 4, 4]},
        ["y"],
        {name: np.asarray(each, np.float32) for name, each in constants.items()},
        dtype=np.float32,
    )
    assert of_statistics(source, tmp_path)[1]["y"].bounds == (0, 0.5)


def test_range_of_a_folded_value_is_8_standard_deviations_of_each_channel(tmp_path: Path) -> None:
    source = classifier(np.random.default_rng(0))
    _, ranges = of_statistics(source, tmp_path)
    path = onnx_models.save_model(source, tmp_path)
    known = of_graph(load_model(path))["bn0"]
    (folded_value,) = [name for name in ranges if name in ("n0", "h0", "h0.folded")]
    np.testing.assert_allclose(ranges[folded_value].low, known.mean - 8 * known.std)
    np.testing.assert_allclose(ranges[folded_value].high, known.mean + 8 * known.std)


def test_merged_branches_have_ranges(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["h0"], pads=[1] * 4),
        batchnorm("h0", "n0", "bn0"),
        helper.make_node("Conv", ["x", "w1"], ["h1"]),
        batchnorm("h1", "n1", "bn1"),
        helper.make_node("Add", ["n0", "n1"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    constants = {"w0": rng.normal(size=(4, 4, 3, 3)), "w1": rng.normal(size=(4, 4, 1, 1))}
    constants |= statistics(rng, 4, "bn0") | statistics(rng, 4, "bn1")
    constants = {name: each.astype(np.float32) for name, each in constants.items()}
    source = onnx_models.with_statistics_of(
        model(nodes, {"x": ["n", 4, 6, 6]}, ["y"], constants, dtype=np.float32), classifier_rows(rng, 100)
    )
    folded, ranges = of_statistics(source, tmp_path)
    assert [node.op_type for node in folded.graph.node] == ["Conv", "Relu"]
    assert share_inside(folded, "y", classifier_rows(rng, 100), ranges["y"]) > 0.9999
    assert ranges["y"].bounds[0] == 0


def test_mean_of_a_range_is_what_values_take_on_average(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folded, ranges = of_statistics(classifier(rng), tmp_path)
    (values,) = run32(with_output(folded, "r0"), classifier_rows(rng, 200))
    np.testing.assert_allclose(ranges["r0"].mean, values.mean(axis=(0, 2, 3)), atol=0.1)


def test_given_range_of_an_input_counts(tmp_path: Path) -> None:
    _, ranges = of_statistics(classifier(np.random.default_rng(0)), tmp_path, x=(-1.5, 2.5))
    assert ranges["x"].bounds == (-1.5, 2.5)


def samples_of(source: onnx.ModelProto, folder: Path, samples: dict[str, np.ndarray]) -> dict[str, ChannelRange]:
    path = onnx_models.save_model(source, folder)
    prepared = prepare(path)
    return ranges_from_samples(prepared, samples, input_infos(path, prepared))


def test_ranges_from_samples_are_least_and_greatest_of_each_channel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source, rows = classifier(rng), classifier_rows(rng, 300)
    ranges = samples_of(source, tmp_path, rows)
    for name in ("n0", "r1", "sum", "features"):
        (values,) = run32(with_output(source, name), rows)
        axes = tuple(axis for axis in range(values.ndim) if axis != 1)
        np.testing.assert_allclose(ranges[name].low, values.min(axis=axes), atol=1e-4)
        np.testing.assert_allclose(ranges[name].high, values.max(axis=axes), atol=1e-4)
        np.testing.assert_allclose(ranges[name].mean, values.mean(axis=axes, dtype=np.float64), atol=1e-4)
    np.testing.assert_allclose(ranges["x"].high, rows["x"].max(axis=(0, 2, 3)))


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        ({"z": np.zeros((3, 4, 6, 6), np.float32)}, r"are of \['z'\]; the network's inputs are \['x'\]"),
        ({"x": np.zeros((3, 4, 6, 6))}, "are float64, the network takes float32"),
        ({"x": np.zeros((3, 4, 6, 7), np.float32)}, r"have shape \[3, 4, 6, 7\]"),
        ({"x": np.zeros((0, 4, 6, 6), np.float32)}, "0} rows: 1 at least are needed"),
        ({"x": np.full((3, 4, 6, 6), np.nan, np.float32)}, "hold NaN or infinity"),
        ({"x": np.full((3, 4, 6, 6), 3e38, np.float32)}, "numbers that are not finite"),
    ],
)
def test_samples_that_the_network_does_not_take_are_refused(
    tmp_path: Path, samples: dict[str, np.ndarray], sentence: str
) -> None:
    with pytest.raises(SampleError, match=sentence):
        samples_of(classifier(np.random.default_rng(0)), tmp_path, samples)


def test_value_of_rank_0_has_a_range(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "m"], ["y"]),
    ]
    proto = model(nodes, {"x": ["n", 4]}, ["y"], {"w": np.eye(4, dtype=np.float32)}, dtype=np.float32)
    onnx.save(proto, tmp_path / "net.onnx")
    network = prepare(tmp_path / "net.onnx")
    x = np.arange(-8, 8, dtype=np.float32).reshape(4, 4)

    found = ranges_from_samples(network, {"x": x}, input_infos(tmp_path / "net.onnx", network))

    assert found["m"].bounds == (-5.0, 7.0)  # the first row is run alone


def test_network_that_cannot_be_run_on_the_samples_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "two"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["y"])]
    constants = {"two": np.array([2, 4]), "w": np.eye(4, dtype=np.float32)}
    onnx.save(model(nodes, {"x": ["n", 4]}, ["y"], constants, dtype=np.float32), tmp_path / "net.onnx")
    network = prepare(tmp_path / "net.onnx")

    with pytest.raises(QuantizeError, match="^The network cannot be run: .*[Rr]eshape"):
        ranges_from_samples(network, {"x": np.ones((4, 4), np.float32)}, input_infos(tmp_path / "net.onnx", network))

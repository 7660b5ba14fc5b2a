"""The benchmark of precision: its bars, its networks with spread channels, and its layers that overflow 16 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from benchmarks.precision import float16, saturation
from benchmarks.precision.bars import Bar, caught
from benchmarks.precision.saturation import LAYERS, MAX_SUM, OURS, PLAIN, bars_of_adversarial, measure_adversarial
from benchmarks.precision.spread import spread_channels
from tests.support.onnx_models import assert_same, batchnorm, model, statistics


@pytest.mark.parametrize(
    ("bar", "is_met"),
    [
        (Bar("a", "dB", 28.0, minimum=28), True),
        (Bar("a", "dB", 27.9, minimum=28), False),
        (Bar("a", "drop", 0.006, maximum=0.006), True),
        (Bar("a", "drop", 0.007, maximum=0.006), False),
        (Bar("a", "dB", float("nan"), minimum=28), False),
        (caught("a", "bias", True), True),
        (caught("a", "bias", False), False),
    ],
)
def test_bar_is_met_within_its_bounds(bar: Bar, is_met: bool) -> None:
    assert bar.is_met is is_met


def test_spread_channels_keep_the_function(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
        batchnorm("a", "b", "bn0"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("ConvTranspose", ["c", "u"], ["d"], name="up", group=2),
        helper.make_node("Resize", ["c", "", "scales"], ["e"], mode="nearest"),
        helper.make_node("Conv", ["d", "v"], ["f"], name="second"),
        helper.make_node("Conv", ["e", "t"], ["g"], name="third", pads=[1, 1, 0, 0]),
        helper.make_node("Concat", ["f", "g"], ["h"], axis=1),
        batchnorm("h", "i", "bn1"),
        helper.make_node("Conv", ["i", "s"], ["y"], name="last"),
    ]
    shapes = {"w": (6, 4, 1, 1), "u": (6, 3, 2, 2), "v": (5, 6, 1, 1), "t": (3, 6, 2, 2), "s": (2, 8, 1, 1)}
    constants = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    constants |= statistics(rng, 6, "bn0") | statistics(rng, 8, "bn1") | {"scales": np.array([1.0, 1, 1.2, 1.2])}
    typed = {name: array.astype(np.float32) for name, array in constants.items()}
    source = model(nodes, {"x": ["n", 4, 5, 5]}, ["y"], typed, dtype=np.float32)
    onnx.save(source, tmp_path / "net.onnx")

    count = spread_channels(tmp_path / "net.onnx", tmp_path / "spread.onnx", rng)

    wide = onnx.load(tmp_path / "spread.onnx")
    assert count >= 20
    assert_same(source, wide, {"x": rng.normal(size=(3, 4, 5, 5)).astype(np.float32)})
    before, after = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in each.graph.initializer} for each in (source, wide)
    )
    factors = np.abs(after["bn0.shift"] / before["bn0.shift"])
    assert factors.max() / factors.min() > 5


@pytest.mark.slow
def test_adversarial_layers_overflow_under_plain_8_bits_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saturation, "KEPT", tmp_path)
    monkeypatch.setattr(saturation, "LAYERS", {kind: LAYERS[kind] for kind in ("Conv of 3 channels", "Gemm")})

    found = list(measure_adversarial())

    assert {each.tool for each in found} == {OURS, PLAIN}
    for each in found:
        assert (each.pair_sum > MAX_SUM) is (each.tool == PLAIN)
        assert (each.lost > 2) is (each.tool == PLAIN)
    assert all(bar.is_met for bar in bars_of_adversarial(found))


def test_overflow_of_float16_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float16, "KEPT", tmp_path)
    assert float16.bar_of_overflow().is_met

"""monitor.onnx gives the moments of the network's own layers, and a bundle contains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from normfold.contract.drift.monitor import MONITOR_CARD_NAME, MONITOR_NAME, divergence, read_monitor
from normfold.contract.preprocess import ImagePreprocessing
from normfold.contract.source_card import SourceCard
from normfold.export.bundle.calibrate import WINDOW_ROWS, calibrate
from normfold.export.bundle.export import export_bundle
from normfold.export.bundle.write_monitor import MAX_LAYERS, save_monitor
from normfold.export.errors import ModelInputError
from tests.support.onnx_models import (
    batchnorm,
    conv_blocks,
    fitted_conv_block,
    gemm_block,
    model,
    run32,
    save_model,
    small_convnet,
    statistics,
    varied_rows,
    window_scores,
    with_output,
)


def parameter(proto: onnx.ModelProto, name: str) -> np.ndarray:
    """Return an initializer, float64."""
    (found,) = [one for one in proto.graph.initializer if one.name == name]
    array: np.ndarray = onnx.numpy_helper.to_array(found).astype(np.float64)
    return array


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize("make", [conv_blocks, gemm_block])
def test_monitor_gives_means_and_squares_of_each_row(tmp_path: Path, make: Any, opset: int) -> None:
    proto = (
        conv_blocks(np.random.default_rng(0), 1, opset)
        if make is conv_blocks
        else gemm_block(np.random.default_rng(0), opset)
    )
    source = save_model(proto, tmp_path)
    (bn,) = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    inputs = {
        "x": np.random.default_rng(0).normal(size=(5, 6) if make is gemm_block else (5, 4, 5, 5)).astype(np.float32)
    }

    (layer,) = save_monitor(source, tmp_path / MONITOR_NAME)
    means, squares = run32(onnx.load(tmp_path / MONITOR_NAME), inputs)

    (y,) = run32(with_output(proto, bn.output[0]), inputs)
    scale, shift = parameter(proto, bn.input[1]), parameter(proto, bn.input[2])
    var = parameter(proto, bn.input[4])
    axes = (1, -1, *[1] * (y.ndim - 2))
    live = np.array([1, 2, 3])  # the scale of the first is 0
    u = ((y - shift.reshape(axes)) / np.where(scale, np.abs(scale), np.inf).reshape(axes))[:, live]
    spatial = tuple(range(2, y.ndim))
    np.testing.assert_allclose(means, u.mean(axis=spatial), rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(squares, (u**2).mean(axis=spatial), rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(layer.variances, (var / (var + 1e-5))[live], rtol=1e-6)
    assert layer.channel_indices == (1, 2, 3)


def test_inputs_of_training_have_no_divergence(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(400, 4, 5, 5)).astype(np.float32)
    proto = fitted_conv_block(np.random.default_rng(1), x)

    (layer,) = save_monitor(save_model(proto, tmp_path), tmp_path / MONITOR_NAME)
    means, squares = (one.mean(axis=0, dtype=np.float64) for one in run32(onnx.load(tmp_path / MONITOR_NAME), {"x": x}))

    np.testing.assert_allclose(divergence(means, squares - means**2, np.array(layer.variances)), 0, atol=1e-8)


@pytest.mark.parametrize(
    ("blocks", "monitored"), [(1, ["bn0"]), (2, ["bn0", "bn1"]), (3, ["bn0", "bn1", "bn2"]), (9, ["bn0", "bn3", "bn6"])]
)
def test_monitor_has_a_few_layers_and_no_node_after_them(tmp_path: Path, blocks: int, monitored: list[str]) -> None:
    layers = save_monitor(save_model(conv_blocks(np.random.default_rng(0), blocks), tmp_path), tmp_path / MONITOR_NAME)

    assert [layer.node for layer in layers] == monitored
    assert len(layers) <= MAX_LAYERS
    kept = onnx.load(tmp_path / MONITOR_NAME).graph
    assert sum(node.op_type == "Conv" for node in kept.node) == int(monitored[-1][2:]) + 1
    assert not [node for node in kept.node if node.op_type == "BatchNormalization"]


def test_network_without_batchnorm_is_not_monitored(tmp_path: Path) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 2]}, ["y"], {}, dtype=np.float32)

    assert save_monitor(save_model(proto, tmp_path), tmp_path / MONITOR_NAME) == []
    exported = export_bundle(save_model(proto, tmp_path), tmp_path / "repository", "net")
    assert exported.monitor is None
    assert MONITOR_NAME not in exported.manifest.files


def one_layer(channels: Sequence[int], scales: Mapping[int, float], shift: float) -> onnx.ModelProto:
    """Make Conv and BatchNormalization with some of seven channels and the statistics of varied_rows(2000, seed=0)."""
    rng = np.random.default_rng(5)
    scale = rng.uniform(0.5, 1.5, 7)
    scale[list(scales)] = list(scales.values())
    kept = {
        "w": rng.normal(size=(7, 4, 3, 3)) / 6,
        "bn.scale": scale,
        "bn.shift": shift * rng.uniform(0.5, 1.5, 7),
        "bn.mean": np.zeros(7),
        "bn.var": np.ones(7),
    }
    constants = {name: array[list(channels)].astype(np.float32) for name, array in kept.items()}
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), batchnorm("h", "y")]

    def made() -> onnx.ModelProto:
        return model(nodes, {"x": ["n", 4, 5, 5]}, ["y"], constants, dtype=np.float32)

    (h,) = run32(with_output(made(), "h"), varied_rows(2000, seed=0))
    constants |= {"bn.mean": h.mean(axis=(0, 2, 3)), "bn.var": h.var(axis=(0, 2, 3))}
    return made()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dead", "shift", "live"),
    [
        ({1: 1e-8}, 1.0, (0, 2, 3, 4, 5, 6)),
        ({4: 1e-40}, 1.0, (0, 1, 2, 3, 5, 6)),
        ({1: -1e-8, 4: 1e-40, 5: 0.0}, 1.0, (0, 2, 3, 6)),
        ({1: 1e-8, 4: 1e-40, 5: 0.0}, 0.0, (0, 1, 2, 3, 6)),
    ],
)
def test_dead_channels_do_not_change_the_score_of_a_layer(
    tmp_path: Path, dead: Mapping[int, float], shift: float, live: tuple[int, ...]
) -> None:
    """Beside a shift, a scale near 0 is lost in rounding; without one, 1e-8 is a scale like others."""
    ratios, judged = [], []
    for channels, scales in ((range(7), dead), (live, {})):
        path = tmp_path / MONITOR_NAME
        layers = save_monitor(save_model(one_layer(channels, scales, shift), tmp_path), path)
        (layer,) = calibrate(path, layers, varied_rows(300, seed=1)).layers
        assert layer.threshold is not None
        (score,) = window_scores(path, (layer,), {"x": 0.8 * varied_rows(WINDOW_ROWS, 7)["x"] + 0.3})
        ratios.append(score / layer.threshold)
        judged.append(layer)

    assert ratios[1] > 1.5
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-3)
    assert [layer.channel_indices for layer in judged] == [live, tuple(range(len(live)))]


def test_a_channel_is_alive_by_what_its_own_numbers_can_hold(tmp_path: Path) -> None:
    """A scale of 0.01 beside a shift of 1 is nine roundings of float16, and a hundred thousand of float32."""
    for dtype, live in ((np.float16, (0, 2)), (np.float32, (0, 1, 2))):
        constants = {"w": np.ones((3, 1, 1, 1)), "bn.scale": np.array([1, 0.01, 0.2]), "bn.shift": np.ones(3)}
        constants |= {"bn.mean": np.zeros(3), "bn.var": np.ones(3)}
        constants = {name: array.astype(dtype) for name, array in constants.items()}
        nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), batchnorm("h", "y")]
        proto = model(nodes, {"x": ["n", 1, 2, 2]}, ["y"], constants, dtype=dtype)

        (layer,) = save_monitor(save_model(proto, tmp_path), tmp_path / MONITOR_NAME)

        assert layer.channel_indices == live


def test_a_channel_whose_variance_is_infinite_is_dead(tmp_path: Path) -> None:
    """It gives its shift alone, and the variance of u is unknown."""
    proto = conv_blocks(np.random.default_rng(0), 1)
    (var,) = [one for one in proto.graph.initializer if one.name == "bn0.var"]
    var.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 1, np.inf, 1], np.float32), "bn0.var"))

    (layer,) = save_monitor(save_model(proto, tmp_path), tmp_path / MONITOR_NAME)

    assert layer.channel_indices == (1, 3)


def without_scale(proto: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """Return a model with layers whose channels are all dead."""
    for one in proto.graph.initializer:
        if one.name in {f"{name}.scale" for name in names}:
            one.CopyFrom(onnx.numpy_helper.from_array(np.zeros(4, np.float32), one.name))
    return proto


def test_layers_are_chosen_among_those_that_live(tmp_path: Path) -> None:
    proto = without_scale(conv_blocks(np.random.default_rng(0), 5), "bn0", "bn3")

    layers = save_monitor(save_model(proto, tmp_path), tmp_path / MONITOR_NAME)

    assert [layer.node for layer in layers] == ["bn1", "bn2", "bn4"]


def test_network_without_a_live_channel_is_not_monitored(tmp_path: Path) -> None:
    proto = without_scale(conv_blocks(np.random.default_rng(0), 2), "bn0", "bn1")

    exported = export_bundle(
        save_model(proto, tmp_path), tmp_path / "repository", "net", calibration=varied_rows(150, 3)
    )

    assert exported.monitor is None
    assert not {MONITOR_NAME, MONITOR_CARD_NAME} & exported.manifest.files.keys()


def test_scores_that_are_all_0_give_no_threshold_and_a_bundle_that_is_read(tmp_path: Path) -> None:
    """Training saw nothing but zeros, and so did whoever held rows out."""
    constants = {"w": np.ones((2, 3)), "bn.scale": np.ones(2), "bn.shift": np.ones(2)}
    constants |= {"bn.mean": np.zeros(2), "bn.var": np.zeros(2)}
    constants = {name: array.astype(np.float32) for name, array in constants.items()}
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"], transB=1), batchnorm("h", "y")]
    proto = model(nodes, {"x": ["n", 3]}, ["y"], constants, dtype=np.float32)
    calibration = {"x": np.zeros((150, 3), np.float32)}

    exported = export_bundle(save_model(proto, tmp_path), tmp_path / "repository", "net", calibration=calibration)

    monitor = read_monitor(exported.path / MONITOR_CARD_NAME)
    assert monitor == exported.monitor
    assert [layer.threshold for layer in monitor.layers] == [None]
    assert monitor.calibration_rows == 0


def test_layer_that_has_the_rows_several_times_is_not_monitored(tmp_path: Path) -> None:
    """Positions of a sequence stand as rows of their own: a window of them is not a window of the network's rows."""
    rng = np.random.default_rng(0)
    nodes = [
        batchnorm("x", "a", "before"),
        helper.make_node("Reshape", ["a", "flat"], ["r"]),
        helper.make_node("Gemm", ["r", "w"], ["h"]),
        batchnorm("h", "b", "behind"),
        helper.make_node("Reshape", ["b", "apart"], ["y"]),
    ]
    constants = {"flat": np.array([-1, 4]), "apart": np.array([-1, 5, 3])}
    constants |= {"w": rng.normal(size=(4, 3)).astype(np.float32)}
    constants |= statistics(rng, 5, "before", np.float32) | statistics(rng, 3, "behind", np.float32)
    proto = model(nodes, {"x": ["n", 5, 4]}, ["y"], constants, dtype=np.float32)

    layers = save_monitor(save_model(proto, tmp_path), tmp_path / MONITOR_NAME)

    assert [layer.node for layer in layers] == ["before"]


def test_a_bundle_has_the_monitor_and_its_thresholds(tmp_path: Path) -> None:
    calibration = tmp_path / "rows.npz"
    np.savez(calibration, x=varied_rows(150, 3)["x"])

    exported = export_bundle(
        save_model(small_convnet(np.random.default_rng(0)), tmp_path),
        tmp_path / "repository",
        "net",
        calibration=calibration,
    )

    monitor = read_monitor(exported.path / MONITOR_CARD_NAME)
    assert monitor == exported.monitor
    assert monitor.calibration_rows == 150
    assert {MONITOR_NAME, MONITOR_CARD_NAME} <= exported.manifest.files.keys()


def test_bundle_may_be_exported_without_a_monitor(tmp_path: Path) -> None:
    exported = export_bundle(
        save_model(small_convnet(np.random.default_rng(0)), tmp_path), tmp_path / "repository", "net", monitoring=False
    )

    assert not (exported.path / MONITOR_NAME).exists()


def test_wrong_rows_write_nothing(tmp_path: Path) -> None:
    calibration = tmp_path / "rows.npz"
    np.savez(calibration, z=np.zeros(3))

    with pytest.raises(ModelInputError, match="the model's inputs are"):
        export_bundle(
            save_model(small_convnet(np.random.default_rng(0)), tmp_path),
            tmp_path / "repository",
            "net",
            calibration=calibration,
        )

    assert not list((tmp_path / "repository").glob("net/*"))


def test_network_of_pixels_is_monitored_in_pixels(tmp_path: Path) -> None:
    card = SourceCard(
        preprocessing=ImagePreprocessing(channels=3, height=5, width=5, value_max=255, mean=(0.5,) * 3, std=(0.3,) * 3)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (120, 3, 5, 5), dtype=np.uint8)
    source = save_model(conv_blocks(np.random.default_rng(0), 2, channels=3), tmp_path)

    exported = export_bundle(
        source, tmp_path / "repository", "net", card=card, takes_pixels=True, calibration={"x": pixels}
    )

    path = exported.path / MONITOR_NAME
    assert onnx.load(path).graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    own = save_monitor(source, tmp_path / "floats.onnx")
    floats = card.preprocessing.standardise(pixels)  # type: ignore[union-attr]
    expected = run32(onnx.load(tmp_path / "floats.onnx"), {"x": floats})
    for one, other in zip(run32(onnx.load(path), {"x": pixels}), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5 * np.abs(other).max())
    assert [layer.node for layer in own] == [layer.node for layer in exported.monitor.layers]  # type: ignore[union-attr]

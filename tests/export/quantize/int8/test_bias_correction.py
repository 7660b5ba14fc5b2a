"""Bias correction takes away the mean error that rounded weights make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from normfold.export.quantize.int8.layers import Layer, layers_of
from normfold.export.quantize.int8.prepare import prepare
from normfold.export.quantize.int8.ranges.from_samples import ranges_from_samples
from normfold.export.quantize.int8.weights.bias_correction import correct_bias, mean_error
from normfold.export.quantize.int8.weights.weight_scales import quantised_rows, weight_scales
from normfold.export.verify.runner import input_infos
from tests.support import onnx_models
from tests.support.onnx_models import model, run32

GROUPS = [1, 2, 4]


def coarse(layer: Layer) -> np.ndarray:
    """Return scales that leave few steps, so that rounding makes a large error."""
    return 20 * weight_scales(layer)


def round_weights(layer: Layer, scales: np.ndarray) -> None:
    values = layer.values()
    across = [1] * values.ndim
    across[layer.output_axis] = -1
    rounded = quantised_rows(layer.rows(), scales).astype(np.float32) * scales[:, None, None]
    restored = rounded.reshape(values.shape) if layer.node.op_type == "Conv" else rounded[..., 0].T
    if layer.output_axis == 0:
        restored = rounded.reshape(values.shape)
    layer.weight.const_value = ir.tensor(restored.astype(np.float32))


def source_of(op_type: str, group: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    if op_type == "Conv":
        weight = rng.normal(size=(8, 4 // group, 3, 3))
        node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=group)
        shape: list[str | int] = ["n", 4, 6, 6]
        mean = np.array([3.0, -2.0, 1.0, 5.0]).reshape(1, 4, 1, 1)
        rows = rng.normal(size=(200, 4, 6, 6)) + mean
    else:
        weight = rng.normal(size=(4, 8))
        node = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
        shape, rows = ["n", 4], rng.normal(size=(200, 4)) + np.array([3.0, -2.0, 1.0, 5.0])
    constants = {"w": weight.astype(np.float32), "b": rng.normal(size=8).astype(np.float32)}
    return model([node], {"x": shape}, ["y"], constants, dtype=np.float32), {"x": rows.astype(np.float32)}


@pytest.mark.parametrize(("op_type", "group"), [*(("Conv", group) for group in GROUPS), ("Gemm", 1)])
def test_corrected_bias_leaves_no_mean_error(tmp_path: Path, op_type: str, group: int) -> None:
    source, rows = source_of(op_type, group)
    path = onnx_models.save_model(source, tmp_path)
    (wanted,) = run32(source, rows)
    axes = tuple(axis for axis in range(wanted.ndim) if axis != 1)
    errors = []
    for corrected in (False, True):
        prepared = prepare(path)
        ranges = ranges_from_samples(prepared, rows, input_infos(path, prepared))
        (layer,) = layers_of(prepared.graph)
        scales = coarse(layer)
        if corrected:
            assert correct_bias(layer, scales, ranges)
        round_weights(layer, scales)
        (given,) = run32(ir.to_proto(prepared), rows)
        errors.append(np.abs((given - wanted).mean(axis=axes)).max())
    assert errors[0] > 0.3
    assert errors[1] < 0.15 * errors[0]


def test_mean_error_is_the_rounding_error_times_the_mean() -> None:
    rng = np.random.default_rng(0)
    rows, mean = rng.normal(size=(6, 2, 3)), rng.normal(size=4)
    scales = np.full(6, 0.3, np.float32)
    rounded = quantised_rows(rows, scales) * scales.astype(np.float64)[:, None, None]
    wanted = [
        sum((rounded[o, c, t] - rows[o, c, t]) * mean[2 * (o // 3) + c] for c in range(2) for t in range(3))
        for o in range(6)
    ]
    np.testing.assert_allclose(mean_error(rows, scales, mean, group=2), wanted)


def test_layer_whose_input_has_no_known_mean_stays(tmp_path: Path) -> None:
    source, _ = source_of("Conv", 1)
    prepared = prepare(onnx_models.save_model(source, tmp_path))
    (layer,) = layers_of(prepared.graph)
    assert not correct_bias(layer, weight_scales(layer), {})

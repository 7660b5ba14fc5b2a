"""RoiAlign, MaxRoiPool and GridSample, as ONNX Runtime computes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, run32, statistics


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


GRIDS = [
    (mode, padding, align, opset)
    for opset, modes in ((16, ("bilinear", "nearest", "bicubic")), (20, ("linear", "nearest", "cubic")))
    for mode in modes
    for padding in ("zeros", "border", "reflection")
    for align in (0, 1)
]


@pytest.mark.parametrize(("mode", "padding", "align", "opset"), GRIDS)
def test_gridsample_passes_an_offset_unless_it_reads_zeros(mode: str, padding: str, align: int, opset: int) -> None:
    rng = np.random.default_rng(0)
    sampler = node("GridSample", "c g", "s", mode=mode, padding_mode=padding, align_corners=align)
    nodes = [node("Conv", "x w", "c"), sampler, batchnorm("s", "b"), node("Tanh", "b", "y")]
    constants = {"w": rng.normal(size=(4, 3, 1, 1)).astype(np.float32)} | statistics(rng, 4, dtype=np.float32)
    constants["bn.var"] = np.ones(4, np.float32)
    inputs = {"x": ["n", 3, "h", "w"], "g": ["n", "rows", "columns", 2]}
    source = model(nodes, inputs, ["y"], constants, opset=opset, dtype=np.float32)
    rows = {"x": rng.normal(size=(2, 3, 5, 6)), "g": rng.uniform(-1.7, 1.7, size=(2, 4, 3, 2))}

    result, report = folded(source)

    (entry,) = report.entries
    assert entry.reason_code == ("zero-padding/operator" if padding == "zeros" else None)
    assert_same(source, result, {name: each.astype(np.float32) for name, each in rows.items()})


def test_gridsample_has_weights_that_add_up_to_one() -> None:
    """Of ones it makes ones, whatever the mode, unless it reads zeros: what an offset needs to pass."""
    for mode, padding, align, opset in GRIDS:
        sampler = node("GridSample", "x g", "y", mode=mode, padding_mode=padding, align_corners=align)
        inputs = {"x": [1, 1, 5, 6], "g": [1, 40, 40, 2]}
        source = model([sampler], inputs, ["y"], {}, opset=opset, dtype=np.float32)
        grid = np.random.default_rng(1).uniform(-1.7, 1.7, size=(1, 40, 40, 2))

        (y,) = run32(source, {"x": np.ones((1, 1, 5, 6), np.float32), "g": grid.astype(np.float32)})

        assert np.allclose(y, 1, atol=1e-5) is (padding != "zeros")


@pytest.mark.parametrize("op_type", ["RoiAlign", "MaxRoiPool"])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("change", ["gain", "gain of zero", "negative gain", "offset"])
def test_regions_pass_a_gain(op_type: str, mode: str, change: str) -> None:
    rng = np.random.default_rng(2)
    if op_type == "RoiAlign":
        pool = node("RoiAlign", "c rois rows", "r", mode=mode, output_height=2, output_width=3, spatial_scale=0.5)
        regions: Any = {"rois": np.array([[-3, -2, 6, 7], [0, 0, 10, 9], [2, 3, 30, 20]]), "rows": np.array([0, 1, 1])}
    else:
        pool = node("MaxRoiPool", "c rois", "r", pooled_shape=[2, 3], spatial_scale=0.5)
        regions = {"rois": np.array([[0, 0, 0, 6, 7], [1, 0, 0, 10, 9], [1, 2, 3, 30, 20]])}
    nodes = [node("Conv", "x w", "c"), pool, batchnorm("r", "b"), node("Tanh", "b", "y")]
    regions["rois"] = regions["rois"].astype(np.float32)
    constants = {"w": rng.normal(size=(4, 3, 1, 1)).astype(np.float32), **regions}
    constants |= statistics(rng, 4, dtype=np.float32)
    zeros = np.zeros(4, np.float32)
    scale = {"gain of zero": [0, 1, 0.5, 2], "negative gain": [1, -1, 0.5, 2]}.get(change, [1, 1, 0.5, 2])
    constants |= {"bn.scale": np.array(scale, np.float32), "bn.var": np.ones(4, np.float32), "bn.mean": zeros}
    constants["bn.shift"] = np.ones(4, np.float32) if change == "offset" else zeros
    source = model(nodes, {"x": ["n", 3, "h", "w"]}, ["y"], constants, opset=16, dtype=np.float32)

    result, report = folded(source)

    takes_maximum = op_type == "MaxRoiPool" or mode == "max"
    code = {"offset": "zero-padding/operator", "negative gain": "gain-sign/operator" if takes_maximum else None}
    assert report.entries[0].reason_code == code.get(change)
    assert_same(source, result, {"x": rng.normal(size=(2, 3, 8, 9)).astype(np.float32)})


def test_gridsample_forwards_leaves_the_affine_to_the_reader() -> None:
    rng = np.random.default_rng(3)
    sampler = node("GridSample", "b g", "s", padding_mode="border")
    nodes = [node("Tanh", "x", "t"), batchnorm("t", "b"), sampler, node("Conv", "s w", "y")]
    constants = {"w": rng.normal(size=(4, 3, 1, 1)).astype(np.float32)} | statistics(rng, 3, dtype=np.float32)
    inputs = {"x": ["n", 3, "h", "w"], "g": ["n", "rows", "columns", 2]}
    source = model(nodes, inputs, ["y"], constants, opset=16, dtype=np.float32)
    rows = {"x": rng.normal(size=(2, 3, 5, 6)), "g": rng.uniform(-1.7, 1.7, size=(2, 4, 3, 2))}

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert_same(source, result, {name: each.astype(np.float32) for name, each in rows.items()})


def test_gridsample_rejects_an_affine_of_its_grid() -> None:
    rng = np.random.default_rng(4)
    nodes = [node("Tanh", "z", "t"), batchnorm("t", "b"), node("GridSample", "x b", "y", padding_mode="border")]
    inputs = {"x": ["n", 3, 5, 6], "z": ["n", 4, 3, 2]}
    source = model(nodes, inputs, ["y"], statistics(rng, 4, dtype=np.float32), opset=16, dtype=np.float32)

    _, report = folded(source)

    assert report.entries[0].reason_code == "operator/indices"

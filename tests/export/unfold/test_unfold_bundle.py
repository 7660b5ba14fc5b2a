"""Unfolded bundles: their own source, or the parameters that they store, and a fold that gives back the layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from normfold.contract.source_card import SourceCard
from normfold.export.bundle.export import export_bundle
from normfold.export.errors import UnfoldError
from normfold.export.files.fold_file import fold_file
from normfold.export.unfold.unfold import unfold_bundle
from tests.support.onnx_models import (
    COLOUR_CARD,
    assert_same_weights,
    batchnorm,
    colour_convnet,
    constants_of,
    conv_blocks,
    folded_again,
    model,
    operators,
    small_convnet,
    statistics,
)

RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def bundle(proto: onnx.ModelProto, folder: Path, **options: Any) -> Path:
    """Export version 1 of net, and return its folder."""
    onnx.save(proto, folder / "net.onnx")
    return export_bundle(folder / "net.onnx", folder / "models", "net", monitoring=False, **options).path


def test_bundle_with_its_source_gives_it_back(tmp_path: Path) -> None:
    path = bundle(small_convnet(np.random.default_rng(0)), tmp_path)

    found = unfold_bundle(tmp_path / "models", "net", tmp_path / "out.onnx")
    fold_file(tmp_path / "out.onnx", tmp_path / "again.onnx")

    assert (tmp_path / "out.onnx").read_bytes() == (path / "unfolded.onnx").read_bytes()
    assert (tmp_path / "again.onnx").read_bytes() == (path / "model.onnx").read_bytes()
    assert [(one.node, one.behind, one.channels) for one in found.report.layers] == [("bn", "conv", 4)]


@pytest.mark.parametrize("keep_source", [True, False])
def test_bundle_that_takes_pixels_is_unfolded(tmp_path: Path, keep_source: bool) -> None:
    card = SourceCard(preprocessing=COLOUR_CARD)
    proto = colour_convnet(np.random.default_rng(0))
    bundle(proto, tmp_path, card=card, takes_pixels=True, keep_source=keep_source)

    found = unfold_bundle(tmp_path / "models", "net", tmp_path / "out.onnx")

    assert found.verification.passes
    assert operators(onnx.load(tmp_path / "out.onnx")).count("BatchNormalization") == 1


@pytest.mark.parametrize("group", [1, 2])
def test_bundle_without_its_source_gets_its_own_parameters_back(tmp_path: Path, group: int) -> None:
    proto = small_convnet(np.random.default_rng(0), group=group)
    path = bundle(proto, tmp_path, keep_source=False)

    unfold_bundle(tmp_path / "models", "net", tmp_path / "unfolded.onnx")

    result = onnx.load(tmp_path / "unfolded.onnx")
    assert operators(result) == operators(proto)
    source, found = constants_of(proto), constants_of(result)
    for field, role in (("scale", "scale"), ("shift", "shift"), ("mean", "running_mean"), ("var", "running_var")):
        np.testing.assert_array_equal(found[f"bn.{role}"], source[f"bn.{field}"])
    alive = source["bn.scale"] != 0
    np.testing.assert_allclose(found["w"][alive], source["w"][alive], rtol=1e-6)
    np.testing.assert_allclose(
        found["conv.bias" if "conv.bias" in found else "b"][alive], source["b"][alive], rtol=1e-4, atol=1e-6
    )
    assert_same_weights(onnx.load(path / "model.onnx"), folded_again(tmp_path))


def test_bundle_of_layers_without_bias_gets_none(tmp_path: Path) -> None:
    proto = conv_blocks(np.random.default_rng(0), 3)
    path = bundle(proto, tmp_path, keep_source=False)

    unfold_bundle(tmp_path / "models", "net", tmp_path / "unfolded.onnx")

    result = onnx.load(tmp_path / "unfolded.onnx")
    assert operators(result) == operators(proto)
    assert [len(node.input) for node in result.graph.node if node.op_type == "Conv"] == [2, 2, 2]
    assert_same_weights(onnx.load(path / "model.onnx"), folded_again(tmp_path))


def test_batchnorm_behind_a_pool_comes_back_through_it(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("AveragePool", ["c"], ["p"], kernel_shape=[2, 2]),
        batchnorm("p", "y"),
    ]
    constants = {"w": weight(3, 2, 1, 1)} | statistics(np.random.default_rng(0), 3, dtype=np.float32)
    proto = model(nodes, {"x": ["n", 2, 4, 4]}, ["y"], constants, dtype=np.float32)
    path = bundle(proto, tmp_path, keep_source=False)

    unfold_bundle(tmp_path / "models", "net", tmp_path / "unfolded.onnx")

    assert operators(onnx.load(tmp_path / "unfolded.onnx")) == ["Conv", "AveragePool", "BatchNormalization"]
    assert_same_weights(onnx.load(path / "model.onnx"), folded_again(tmp_path))


def test_batchnorm_that_left_no_value_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        batchnorm("c", "a", "first"),
        helper.make_node("Relu", ["a"], ["r"]),
        batchnorm("r", "b", "second"),
        helper.make_node("Conv", ["b", "v"], ["y"], name="last"),
    ]
    constants = {"w": weight(3, 2, 1, 1), "v": weight(2, 3, 1, 1)}
    for name in ("first", "second"):
        constants |= statistics(np.random.default_rng(0), 3, name, dtype=np.float32)
    proto = model(nodes, {"x": ["n", 2, 4, 4]}, ["y"], constants, dtype=np.float32)
    bundle(proto, tmp_path, keep_source=False)

    found = unfold_bundle(tmp_path / "models", "net", tmp_path / "unfolded.onnx")

    assert [one.node for one in found.report.layers] == ["first"]
    assert found.report.left == (
        "BatchNormalization 'second' cannot be put back: it was folded forward, and no value of the folded network is "
        "its output.",
    )
    nothing = model(nodes[4:], {"b": ["n", 3, 4, 4]}, ["y"], {"v": constants["v"]}, dtype=np.float32)
    onnx.save(nothing, tmp_path / "plain.onnx")
    export_bundle(tmp_path / "plain.onnx", tmp_path / "models", "plain", keep_source=False, monitoring=False)
    with pytest.raises(UnfoldError, match="no BatchNormalization that can be put back"):
        unfold_bundle(tmp_path / "models", "plain", tmp_path / "plain_unfolded.onnx")
    assert not (tmp_path / "plain_unfolded.onnx").exists()

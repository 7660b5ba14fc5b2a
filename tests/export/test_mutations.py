"""Ten wrong folds, planted one at a time: verification catches every one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from normfold.export.errors import VerificationError
from normfold.export.files.fold_file import fold_file
from normfold.export.fold.affine import Affine
from tests.support.onnx_models import batchnorm, model, statistics


def network() -> onnx.ModelProto:
    """Make a network in which every kind of fold happens: back, forward, through chains, composed, merged."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], group=2, pads=[1] * 4),
        batchnorm("c0", "n0", "bn0"),
        helper.make_node("Relu", ["n0"], ["r0"]),
        batchnorm("r0", "n1", "bn1"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], pads=[1] * 4),
        helper.make_node("Sub", ["c1", "n1"], ["s1"]),
        helper.make_node("Tanh", ["s1"], ["t1"]),
        batchnorm("t1", "n2", "bn2"),
        helper.make_node("AveragePool", ["n2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p2", "w2"], ["c2"]),
        helper.make_node("ConvTranspose", ["c2", "w3"], ["c3"], group=2, strides=[2, 2]),
        batchnorm("c3", "n3", "bn3"),
        helper.make_node("Tanh", ["n3"], ["t3"]),
        helper.make_node("Flatten", ["t3"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "u"], ["g"], alpha=0.5, beta=2.0),
        batchnorm("g", "y", "bn4"),
    ]
    sizes = {"w0": (4, 2, 3, 3), "b0": (4,), "w1": (4, 4, 3, 3), "w2": (4, 4, 1, 1), "w3": (4, 2, 2, 2)}
    sizes |= {"v": (4 * 36, 5), "u": (5,)}
    constants = {name: rng.normal(size=size) / np.sqrt(np.prod(size[1:]) or 1) for name, size in sizes.items()}
    for name, channels in (("bn0", 4), ("bn1", 4), ("bn2", 4), ("bn3", 4), ("bn4", 5)):
        constants |= statistics(rng, channels, name)
    typed = {name: array.astype(np.float32) for name, array in constants.items()}
    return model(nodes, {"x": ["n", 4, 6, 6]}, ["y"], typed, dtype=np.float32)


def offset_dropped(affine: Affine) -> Affine:
    return affine.without_offset()


def gain_dropped(affine: Affine) -> Affine:
    return Affine(np.ones_like(affine.gain), affine.offset)


def gain_without_sign(affine: Affine) -> Affine:
    return Affine(np.abs(affine.gain), affine.offset)


def channels_shifted(affine: Affine) -> Affine:
    return affine.map(lambda array: np.roll(array, 1, axis=1))


def offset_doubled(affine: Affine) -> Affine:
    return Affine(affine.gain, 2 * affine.offset)


def of_affine(change: Callable[[Affine], Affine]) -> Callable[[pytest.MonkeyPatch], None]:
    """Plant a fault in the affine that is read off a BatchNormalization."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        from normfold.export.fold.batchnorm_parameters import BatchNorm

        right = BatchNorm.affine
        patch.setattr(BatchNorm, "affine", lambda self, rank: change(right(self, rank)))

    return plant


def epsilon_wrong(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("normfold.export.fold.batchnorm_parameters.DEFAULT_EPSILON", 1e-3)


def groups_laid_out_wrong(patch: pytest.MonkeyPatch) -> None:
    def tiled(vector: Any, groups: int, rows: int) -> Any:
        return np.tile(vector.reshape(groups, -1), (rows // groups, 1))

    patch.setattr("normfold.export.fold.operators.conv_transpose.by_group", tiled)


def beta_forgotten(patch: pytest.MonkeyPatch) -> None:
    from normfold.export.fold.operators import gemm

    right = gemm.fold_backward

    def wrong(node: Any, wanted: Any) -> Any:
        beta = node.attributes.get_float("beta", 1.0)
        return right(node, {index: Affine(affine.gain, affine.offset * beta) for index, affine in wanted.items()})

    patch.setattr(gemm, "fold_backward", wrong)


def sign_forgotten_in_merge(patch: pytest.MonkeyPatch) -> None:
    from normfold.export.fold.merge import branches
    from normfold.export.fold.merge.kernel import summed as right

    patch.setattr(branches, "summed", lambda kernels, signs: right(kernels, [1] * len(signs)))


def kernel_off_centre(patch: pytest.MonkeyPatch) -> None:
    from normfold.export.fold.merge import kernel

    right = kernel._sum_weights

    def wrong(kernels: Any, signs: Any, result: Any) -> Any:
        return np.roll(right(kernels, signs, result), 1, axis=-1)

    patch.setattr(kernel, "_sum_weights", wrong)


FAULTS = {
    "offset dropped": of_affine(offset_dropped),
    "gain dropped": of_affine(gain_dropped),
    "gain without its sign": of_affine(gain_without_sign),
    "channels shifted by one": of_affine(channels_shifted),
    "offset doubled": of_affine(offset_doubled),
    "wrong epsilon": epsilon_wrong,
    "groups laid out wrong": groups_laid_out_wrong,
    "Gemm's beta forgotten": beta_forgotten,
    "sign forgotten in a merge": sign_forgotten_in_merge,
    "kernel off centre in a merge": kernel_off_centre,
}


@pytest.mark.slow
def test_network_without_a_fault_folds_and_passes(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "a.onnx")

    report = fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx").report

    assert report.batchnorm_after == 0
    assert {entry.outcome.value for entry in report.entries} == {"folded back", "folded forward", "merged"}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = network()
    del source.graph.node[1].attribute[:]
    onnx.save(source, tmp_path / "a.onnx")
    FAULTS[name](monkeypatch)

    with pytest.raises(VerificationError):
        fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx")

    assert not (tmp_path / "b.onnx").exists()
    assert numpy_helper.to_array(onnx.load(tmp_path / "a.onnx").graph.initializer[0]).any()

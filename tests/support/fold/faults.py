"""Faults of folding, planted one at a time, and networks in which each of them shows."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from normfold.export.fold.affine import Affine
from tests.support.onnx_models import batchnorm, model, statistics


@dataclass(frozen=True)
class Fault:
    """A function that plants a fault, and the module of `export.fold.operators` that it is in, if it is in one."""

    plant: Callable[[pytest.MonkeyPatch], None]
    operator: str = ""


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
        helper.make_node("Mul", ["t3", "k"], ["m3"]),
        helper.make_node("Add", ["m3", "l"], ["a3"]),
        helper.make_node("Sigmoid", ["a3"], ["r3"]),
        helper.make_node("Flatten", ["r3"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "u"], ["g"], alpha=0.5, beta=2.0),
        batchnorm("g", "y", "bn4"),
    ]
    sizes = {"w0": (4, 2, 3, 3), "b0": (4,), "w1": (4, 4, 3, 3), "w2": (4, 4, 1, 1), "w3": (4, 2, 2, 2)}
    sizes |= {"v": (4 * 36, 5), "u": (5,)}
    constants = {name: rng.normal(size=size) / np.sqrt(np.prod(size[1:]) or 1) for name, size in sizes.items()}
    for name, channels in (("bn0", 4), ("bn1", 4), ("bn2", 4), ("bn3", 4), ("bn4", 5)):
        constants |= statistics(rng, channels, name)
    constants |= {name: rng.uniform(0.5, 1.5, (4, 1, 1)) for name in "kl"}
    typed = {name: array.astype(np.float32) for name, array in constants.items()}
    return model(nodes, {"x": ["n", 4, 6, 6]}, ["y"], typed, dtype=np.float32)


def layers() -> onnx.ModelProto:
    """Make a network of layers of other kinds: quantised, recurrent, an embedding, an Einsum, and two after one."""
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w"], ["c0"]),
        batchnorm("c0", "n0", "bn0"),
        helper.make_node("Relu", ["n0"], ["y0"]),
        helper.make_node("ArgMax", ["x"], ["ids"], axis=1, keepdims=0),
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Transpose", ["e"], ["e.turned"], perm=[0, 3, 1, 2]),
        batchnorm("e.turned", "n1", "bn1"),
        helper.make_node("Tanh", ["n1"], ["y1"]),
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("Reshape", ["t", "shape"], ["steps"]),
        batchnorm("steps", "n2", "bn2"),
        helper.make_node("Transpose", ["n2"], ["n2.turned"], perm=[2, 0, 1]),
        helper.make_node("GRU", ["n2.turned", "gru.w", "gru.r"], ["y2"], hidden_size=3),
        helper.make_node("Sigmoid", ["x"], ["g"]),
        batchnorm("g", "n3", "bn3"),
        helper.make_node("Einsum", ["n3", "v"], ["p"], equation="nchw,ck->nkhw"),
        helper.make_node("Add", ["p", "b"], ["y3"]),
        helper.make_node("Conv", ["x", "u"], ["c4"]),
        batchnorm("c4", "n4", "bn4"),
        batchnorm("c4", "n5", "bn5"),
        helper.make_node("Tanh", ["n4"], ["y4"]),
        helper.make_node("Sigmoid", ["n5"], ["y5"]),
    ]
    sizes = {"table": (4, 5), "gru.w": (1, 9, 4), "gru.r": (1, 9, 3), "v": (4, 6), "b": (6, 1, 1), "u": (4, 4, 1, 1)}
    constants: dict[str, Any] = {name: rng.normal(size=size) for name, size in sizes.items()}
    constants["s"] = rng.uniform(0.01, 0.02, 4)
    for name, channels in (("bn0", 4), ("bn1", 5), ("bn2", 4), ("bn3", 4), ("bn4", 4), ("bn5", 4)):
        constants |= statistics(rng, channels, name)
        constants[f"{name}.scale"] = np.where(np.arange(channels) == 1, -0.75, 1.5) + rng.random(channels) / 4
    typed = {name: array.astype(np.float32) for name, array in constants.items()}
    typed |= {"q": rng.integers(-127, 128, (4, 4, 3, 3)).astype(np.int8), "shape": np.array([0, 4, 36])}
    return model(nodes, {"x": ["n", 4, 6, 6]}, [f"y{place}" for place in range(6)], typed, dtype=np.float32)


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


def negation_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("normfold.export.fold.weights.rescale._negated", lambda *_: None)


def scales_reversed(patch: pytest.MonkeyPatch) -> None:
    from normfold.export.fold.weights import rescale

    right = rescale._constant

    def wrong(quantized: Any, index: int, role: str, shape: Any, dtype: Any, array: Any) -> Any:
        return right(quantized, index, role, shape, dtype, array[::-1])

    patch.setattr(rescale, "_constant", wrong)


def forward_without_offset(module: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Plant a fault in an operator that forgets the offset of what comes before it."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        operator = importlib.import_module(f"normfold.export.fold.operators.{module}")
        right = operator.fold_forward
        patch.setattr(operator, "fold_forward", lambda node, removed: right(node, {0: removed[0].without_offset()}))

    return plant


def table_without_offset(patch: pytest.MonkeyPatch) -> None:
    from normfold.export.fold.operators import embedding

    right = embedding.fold_backward
    patch.setattr(embedding, "fold_backward", lambda node, required: right(node, {0: required[0].without_offset()}))


def einsum_axes_reversed(patch: pytest.MonkeyPatch) -> None:
    from normfold.export.fold.operators import einsum

    right = einsum._arranged
    patch.setattr(einsum, "_arranged", lambda array, labels, target: right(array, labels, target)[::-1])


FAULTS_OF_LAYERS = {
    "negative gain in the scale alone": Fault(negation_forgotten),
    "scales in the wrong order": Fault(scales_reversed),
    "embedding without the offset": Fault(table_without_offset, "embedding"),
    "recurrent layer without the offset": Fault(forward_without_offset("recurrent"), "recurrent"),
    "Einsum's constant along the wrong axis": Fault(einsum_axes_reversed, "einsum"),
    "others of several without the inverse's offset": Fault(forward_without_offset("batchnorm"), "batchnorm"),
}


def offset_of_joined_affines_doubled(patch: pytest.MonkeyPatch) -> None:
    from normfold.export.fold.stages import join_affines

    right = join_affines._batchnorm
    patch.setattr(join_affines, "_batchnorm", lambda chain: right(replace(chain, offset=2 * chain.offset)))


FAULTS = {
    "offset dropped": Fault(of_affine(offset_dropped)),
    "gain dropped": Fault(of_affine(gain_dropped)),
    "gain without its sign": Fault(of_affine(gain_without_sign)),
    "channels shifted by one": Fault(of_affine(channels_shifted)),
    "offset doubled": Fault(of_affine(offset_doubled)),
    "wrong epsilon": Fault(epsilon_wrong),
    "groups laid out wrong": Fault(groups_laid_out_wrong, "conv_transpose"),
    "Gemm's beta forgotten": Fault(beta_forgotten, "gemm"),
    "sign forgotten in a merge": Fault(sign_forgotten_in_merge),
    "kernel off centre in a merge": Fault(kernel_off_centre),
    "offset of a joined Mul and Add doubled": Fault(offset_of_joined_affines_doubled),
}

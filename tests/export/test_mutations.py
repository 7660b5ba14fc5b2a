"""Wrong folds, planted one at a time: verification catches every one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from normfold.export.errors import VerificationError
from normfold.export.files.fold_file import fold_file
from normfold.export.fold.affine import Affine
from normfold.export.fold.plan import Step
from tests.support.onnx_models import batchnorm, model, statistics

pytestmark = pytest.mark.slow  # together: each fault folds and verifies a network


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
    "negative gain in the scale alone": negation_forgotten,
    "scales in the wrong order": scales_reversed,
    "embedding without the offset": table_without_offset,
    "recurrent layer without the offset": forward_without_offset("recurrent"),
    "Einsum's constant along the wrong axis": einsum_axes_reversed,
    "others of several without the inverse's offset": forward_without_offset("batchnorm"),
}


def offset_of_joined_affines_doubled(patch: pytest.MonkeyPatch) -> None:
    from normfold.export.fold.stages import join_affines

    right = join_affines._batchnorm
    patch.setattr(join_affines, "_batchnorm", lambda chain: right(replace(chain, offset=2 * chain.offset)))


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
    "offset of a joined Mul and Add doubled": offset_of_joined_affines_doubled,
}


@pytest.mark.slow
def test_network_without_a_fault_folds_and_passes(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "a.onnx")

    report = fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx").report

    assert (report.batchnorm_after, report.batchnorm_made) == (0, 1)
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


def test_layers_without_a_fault_fold_and_pass(tmp_path: Path) -> None:
    onnx.save(layers(), tmp_path / "a.onnx")

    report = fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx").report

    assert [entry.outcome.value for entry in report.entries].count("kept") == 1


@pytest.mark.parametrize("name", FAULTS_OF_LAYERS)
def test_a_planted_fault_of_a_layer_is_caught(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(layers(), tmp_path / "a.onnx")
    FAULTS_OF_LAYERS[name](monkeypatch)

    with pytest.raises(VerificationError):
        fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx")

    assert not (tmp_path / "b.onnx").exists()


@dataclass(frozen=True)
class PassedFault:
    """Nodes from a, 8 channels behind a Conv, to b, before a BatchNormalization; and a function that is wrong."""

    nodes: list[onnx.NodeProto]
    constants: dict[str, Any]
    target: str
    wrong: Callable[..., Any]
    channels: int = 8
    scale: float = 1.0
    rows: int | str = 1


def of_node(op_type: str, inputs: str, result: str = "b", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [result], **attributes)


def forgotten(*_: Any) -> None:
    """Change no constant."""


SQUARE = np.linspace(0.5, 2, 192).reshape(1, 8, 6, 4)

PASSED_FAULTS = {
    "Where's constant forgotten": PassedFault(
        [of_node("Where", "mask k a")],
        {"mask": np.eye(6, dtype=bool), "k": np.array(0.5)},
        "where.with_affines",
        forgotten,
    ),
    "Max lets a negative gain pass": PassedFault(
        [of_node("Max", "a k")], {"k": np.array(0.0)}, "where._reject_sign", lambda *_: None, scale=-1.0
    ),
    "Relu lets a negative gain pass": PassedFault(
        [of_node("Relu", "a")], {}, "monotone._reject", lambda *_: None, scale=-1.0
    ),
    "Concat's constant forgotten": PassedFault(
        [of_node("Concat", "a k", axis=3)], {"k": SQUARE}, "concat.with_affines", forgotten
    ),
    "an expanded constant forgotten": PassedFault(
        [of_node("Shape", "x", "s"), of_node("Expand", "k s", "e"), of_node("Concat", "a e", axis=1)],
        {"k": np.array(0.5)},
        "expand.with_affines",
        forgotten,
        channels=12,
        rows="n",
    ),
    "Mean's offset not multiplied": PassedFault(
        [of_node("Mean", "a k")], {"k": SQUARE[:, :, :1, :1]}, "add._divisor", lambda _: 1
    ),
    "ReduceSum's offset not divided": PassedFault(
        [of_node("ReduceSum", "a ax")], {"ax": np.array([2])}, "reduce._count", lambda *_: 1
    ),
    "Tile's copies counted wrong": PassedFault(
        [of_node("Tile", "a r")],
        {"r": np.array([1, 2, 1, 1])},
        "tile.is_same",
        lambda *_: True,
        channels=16,
    ),
    "Clip's bounds left as they are": PassedFault(
        [of_node("Clip", "a k")], {"k": np.array(0.0)}, "clip._edit", lambda *_: None
    ),
    "RoiAlign's zeros forgotten": PassedFault(
        [of_node("RoiAlign", "a rois rows", output_height=2, output_width=2)],
        {"rois": np.array([[-3.0, -3, 2, 2]]), "rows": np.array([0])},
        "sample._reads_zeros",
        lambda _: False,
    ),
    "a norm lets an offset pass": PassedFault(
        [of_node("ReduceL2", "a", axes=[2])], {}, "reduce._reject_of_kind", lambda *_: None
    ),
    "a pool of norms lets an offset pass": PassedFault(
        [of_node("LpPool", "a", kernel_shape=[2, 2])], {}, "pool._reject", lambda *_: None
    ),
    "ReverseSequence reverses the channels alone": PassedFault(
        [of_node("ReverseSequence", "a lengths", batch_axis=0, time_axis=1)],
        {"lengths": np.array([5])},
        "rearrange._reject",
        lambda *_: None,
    ),
    "Split's parts mistaken for one": PassedFault(
        [
            helper.make_node("Split", ["a", "sizes"], ["c", "d"], axis=1),
            of_node("Concat", "d c", axis=1),
        ],
        {"sizes": np.array([3, 5])},
        "split.join",
        lambda arrays, *_: np.ones([1] * arrays[0].ndim),
    ),
    "ConstantOfShape's value forgotten": PassedFault(
        [of_node("Shape", "x", "s"), of_node("ConstantOfShape", "s", "e"), of_node("Concat", "a e", axis=1)],
        {},
        "constant_of_shape.fold_backward",
        lambda *_: Step(),
        channels=12,
        rows="n",
    ),
    "Neg's offset keeps its sign": PassedFault(
        [of_node("Neg", "a")], {}, "neg.Affine", lambda gain, offset: Affine(gain, -offset)
    ),
    "Pad crops the other end": PassedFault(
        [of_node("Pad", "a q")],
        {"q": np.array([0, -2, 0, 0, 0, 0, 0, 0])},
        "pad._left",
        lambda *_: range(6),
        channels=6,
    ),
    "Gather's indices off by one": PassedFault(
        [of_node("Gather", "a i", axis=1)],
        {"i": np.array([1, 6, 3])},
        "select._indices",
        lambda _: np.array([2, 7, 4]),
        channels=3,
    ),
    "GridSample's zeros forgotten": PassedFault(
        [of_node("GridSample", "a g")],
        {"g": np.random.default_rng(2).uniform(-2, 2, size=(1, 5, 5, 2))},
        "sample._reads_zeros",
        lambda _: False,
    ),
}


def passed_network(fault: PassedFault) -> onnx.ModelProto:
    """Make x -> Conv -> a, the nodes of a fault, b -> BatchNormalization -> Tanh -> y."""
    rng = np.random.default_rng(0)
    nodes = [of_node("Conv", "x w", "a"), *fault.nodes, batchnorm("b", "n"), of_node("Tanh", "n", "y")]
    constants = {"w": rng.normal(size=(8, 4, 1, 1))} | statistics(rng, fault.channels) | fault.constants
    constants["bn.scale"] = fault.scale * np.linspace(0.5, 2, fault.channels)
    constants["bn.var"] = np.ones(fault.channels)
    if fault.target.startswith("monotone"):
        constants["bn.shift"] = constants["bn.mean"] = np.zeros(fault.channels)
    typed = {name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in constants.items()}
    return model(nodes, {"x": [fault.rows, 4, 6, 6]}, ["y"], typed, dtype=np.float32)


@pytest.mark.parametrize("name", PASSED_FAULTS)
def test_a_planted_fault_of_an_operator_that_an_affine_passes_is_caught(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = PASSED_FAULTS[name]
    onnx.save(passed_network(fault), tmp_path / "a.onnx")
    assert fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx").report.batchnorm_before == 1
    (tmp_path / "b.onnx").unlink()
    monkeypatch.setattr(f"normfold.export.fold.operators.{fault.target}", fault.wrong)

    with pytest.raises(VerificationError):
        fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx")

    assert not (tmp_path / "b.onnx").exists()

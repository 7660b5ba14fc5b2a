"""Faults of the operators that an affine passes, or that absorb it, each with a few nodes in which it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from normfold.export.fold.affine import Affine
from normfold.export.fold.layer import along_axis
from normfold.export.fold.plan import Step
from tests.support.onnx_models import batchnorm, model, statistics


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
    opset: int = 17


def of_node(op_type: str, inputs: str, result: str = "b", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [result], **attributes)


def forgotten(*_: Any) -> None:
    """Change no constant."""


def reversed_along_axis(vector: Any, axis: int, rank: int) -> Any:
    """Give each channel the gain of another."""
    return along_axis(vector[::-1], axis, rank)


def channels_rolled(node: Any, required: Any) -> Step:
    """Pass the affine through a Transpose, and give each channel that of another."""
    order = np.argsort(node.attributes.get_ints("perm"))
    return Step(backward={0: required[0].map(lambda array: np.roll(array.transpose(order), 1))})


KERNEL = np.random.default_rng(3).normal(size=(8, 8, 1, 1))
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
    "Conv's gains in the wrong order": PassedFault(
        [of_node("Conv", "a v")], {"v": KERNEL}, "conv.along_axis", reversed_along_axis
    ),
    "DeformConv's gains in the wrong order": PassedFault(
        [of_node("DeformConv", "a v moved", kernel_shape=[1, 1])],
        {"v": KERNEL, "moved": np.zeros((1, 2, 6, 6))},
        "deform_conv.along_axis",
        reversed_along_axis,
        opset=19,
    ),
    "MatMul's gains in the wrong order": PassedFault(
        [of_node("GlobalAveragePool", "a", "p"), of_node("Flatten", "p", "f"), of_node("MatMul", "f v")],
        {"v": KERNEL[:, :5, 0, 0]},
        "matmul.along_axis",
        reversed_along_axis,
        channels=5,
    ),
    "InstanceNormalization's gains in the wrong order": PassedFault(
        [of_node("InstanceNormalization", "a s t")],
        {"s": np.linspace(0.5, 2, 8), "t": np.linspace(-1, 1, 8)},
        "normalisation._as_parameters",
        lambda _, affine, shape: tuple(vector[::-1] for vector in affine.along(1, shape[0])),
    ),
    "DepthToSpace takes the channels in the other order": PassedFault(
        [of_node("DepthToSpace", "a", blocksize=2)],
        {},
        "depth_space._origin",
        lambda _: np.repeat(np.arange(2), 4),
        channels=2,
    ),
    "Cast lets an affine pass integers": PassedFault(
        [of_node("Cast", "a", "i", to=TensorProto.INT64), of_node("Cast", "i", to=TensorProto.FLOAT)],
        {},
        "identity._reject",
        lambda _: None,
    ),
    "a product lets an offset pass": PassedFault(
        [of_node("Sigmoid", "x", "g"), of_node("Conv", "g v", "c"), of_node("Tanh", "c", "t"), of_node("Mul", "a t")],
        {"v": KERNEL[:, :4]},
        "mul._backward_activations",
        lambda _, affine: Step(backward={0: affine}),
    ),
    "Reshape's channels mixed": PassedFault(
        [of_node("Reshape", "a shape")],
        {"shape": np.array([1, 4, 12, 6])},
        "reshape._reshaped",
        lambda array, *_: np.tile(array.ravel(), 8 // array.size).reshape(1, 8, 1, 1),
        channels=4,
    ),
    "Resize's channels mistaken for unmixed": PassedFault(
        [
            helper.make_node(
                "Resize",
                ["a", "", "scales"],
                ["b"],
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        {"scales": np.array([1, 1.1, 2, 2])},
        "resize._keeps",
        lambda *_: True,
    ),
    "Transpose's channels off by one": PassedFault(
        [
            of_node("Transpose", "a", "c", perm=[0, 2, 3, 1]),
            of_node("Neg", "c", "d"),
            of_node("Transpose", "d", perm=[0, 3, 1, 2]),
        ],
        {},
        "transpose.fold_backward",
        channels_rolled,
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
    return model(nodes, {"x": [fault.rows, 4, 6, 6]}, ["y"], typed, fault.opset, np.float32)

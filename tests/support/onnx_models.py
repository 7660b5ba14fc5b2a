"""Small ONNX models, and the outputs that they compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from normfold.contract.drift.monitor import MonitoredLayer, divergence
from normfold.contract.preprocess import ImagePreprocessing
from normfold.export.files.fold_file import fold_file
from normfold.export.fold.fold import fold
from normfold.export.fold.report import FoldReport
from normfold.export.onnx_io.model_file import load_model
from normfold.export.onnx_io.model_file import save_model as write_model
from normfold.export.quantize.int8.quantize import quantize_int8
from normfold.export.quantize.int8.result import Int8Options, Int8Result

Shape = Sequence[Any]
"""Sizes, and names of free axes; Any, for mypy infers list[object] of a list that holds both."""

STATISTICS, SAMPLES = "statistics", "samples"
"""Where `quantised` takes ranges from."""


def model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray],
    opset: int = 17,
    dtype: Any = np.float64,
) -> onnx.ModelProto:
    """Make a checked model; inputs are of `dtype`, outputs have the shapes that inference finds."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(made)
    onnx.checker.check_model(inferred)
    return inferred


def batchnorm(source: str, result: str, name: str = "bn", **attributes: Any) -> NodeProto:
    """Make a BatchNormalization node whose parameters are called NAME.scale and so on."""
    parameters = [f"{name}.{field}" for field in ("scale", "shift", "mean", "var")]
    return helper.make_node("BatchNormalization", [source, *parameters], [result], name=name, **attributes)


def statistics(rng: np.random.Generator, channels: int, name: str = "bn", dtype: Any = np.float64) -> dict[str, Any]:
    """Make parameters as training leaves them: some scales negative, one zero, one variance tiny."""
    scale = rng.uniform(0.5, 1.5, channels) * np.where(rng.random(channels) < 0.3, -1, 1)
    var = rng.uniform(0.5, 2.0, channels)
    if channels > 2:
        scale[0], var[1] = 0.0, 1e-7
    fields = {"scale": scale, "shift": rng.normal(size=channels), "mean": rng.normal(size=channels), "var": var}
    return {f"{name}.{field}": array.astype(dtype) for field, array in fields.items()}


IMAGE = {"x": ["n", 2, 4, 4]}
"""Input of what `conv_batchnorm` makes."""


def conv_batchnorm(rng: np.random.Generator, **changes: Any) -> tuple[list[NodeProto], dict[str, Any]]:
    """Make the nodes x -> Conv -> h -> BatchNormalization -> y, and their constants."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"], name="conv"), batchnorm("h", "y", **changes)]
    return nodes, {"w": rng.normal(size=(3, 2, 1, 1))} | statistics(rng, 3)


def image_rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Make two rows of IMAGE."""
    return {"x": rng.normal(size=(2, 2, 4, 4))}


def small_convnet(
    rng: np.random.Generator, batch: int | str = "n", dtype: Any = np.float32, group: int = 2
) -> onnx.ModelProto:
    """Make Conv, BatchNormalization, Relu, Flatten, Gemm: x (batch, 4, 5, 5) -> y (batch, 3); every weight matters."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"], name="conv", group=group, pads=[1, 1, 1, 1]),
        batchnorm("h", "n1"),
        helper.make_node("Relu", ["n1"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["y"], name="gemm"),
    ]
    constants = {
        "w": rng.normal(size=(4, 4 // group, 3, 3)),
        "b": rng.normal(size=4),
        "v": rng.normal(size=(4 * 5 * 5, 3)),
    } | statistics(rng, 4)
    constants = {name: array.astype(dtype) for name, array in constants.items()}
    return model(nodes, {"x": [batch, 4, 5, 5]}, ["y"], constants, dtype=dtype)


def shifted_inputs(count: int = 64, seed: int = 1) -> np.ndarray:
    """Make inputs of `small_convnet` with mean 2 and standard deviation 3."""
    return np.random.default_rng(seed).normal(2.0, 3.0, (count, 4, 5, 5)).astype(np.float32)


COLOUR_CARD = ImagePreprocessing(channels=3, height=6, width=6, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Preprocessing of `colour_convnet`'s pictures."""


def colour_convnet(
    rng: np.random.Generator, front: list[NodeProto] | None = None, pads: int = 1, **constants: np.ndarray
) -> onnx.ModelProto:
    """Make Conv, BatchNormalization, Relu: x (n, 3, 6, 6) -> y; nodes of `front` come first and make the value `s`."""
    first = "s" if front else "x"
    nodes = [
        *(front or []),
        helper.make_node("Conv", [first, "w"], ["c"], name="conv", pads=[pads] * 4),
        batchnorm("c", "b"),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    weight = {"w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32)}
    parameters = weight | statistics(rng, 4, dtype=np.float32) | constants
    return model(nodes, {"x": ["n", 3, 6, 6]}, ["y"], parameters, dtype=np.float32)


def gemm_block(rng: np.random.Generator, opset: int) -> onnx.ModelProto:
    """Make a network of rank 2: x -> Gemm -> BatchNormalization -> Relu -> y."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"]),
        batchnorm("h", "n1"),
        helper.make_node("Relu", ["n1"], ["y"]),
    ]
    constants = {"w": rng.normal(size=(6, 4))} | statistics(rng, 4)
    constants = {name: array.astype(np.float32) for name, array in constants.items()}
    return model(nodes, {"x": ["n", 6]}, ["y"], constants, opset=opset, dtype=np.float32)


def conv_blocks(rng: np.random.Generator, blocks: int, opset: int = 17, channels: int = 4) -> onnx.ModelProto:
    """Make a chain of Conv, BatchNormalization and Relu."""
    nodes: list[NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    before = "x"
    for place in range(blocks):
        name = f"bn{place}"
        nodes += [
            helper.make_node("Conv", [before, f"w{place}"], [f"h{place}"], pads=[1, 1, 1, 1]),
            batchnorm(f"h{place}", f"n{place}", name),
            helper.make_node("Relu", [f"n{place}"], [f"r{place}"]),
        ]
        constants |= {f"w{place}": rng.normal(size=(channels, channels, 3, 3)) / 6} | statistics(rng, channels, name)
        before = f"r{place}"
    constants = {name: array.astype(np.float32) for name, array in constants.items()}
    return model(nodes, {"x": ["n", channels, 5, 5]}, [before], constants, opset=opset, dtype=np.float32)


def fitted_conv_block(rng: np.random.Generator, x: np.ndarray) -> onnx.ModelProto:
    """Make one block of `conv_blocks` whose running statistics are those of the rows `x`, as precise ones are."""
    proto = conv_blocks(rng, 1)
    (h,) = run32(with_output(proto, "h0"), {"x": x})
    for name, values in (("bn0.mean", h.mean(axis=(0, 2, 3))), ("bn0.var", h.var(axis=(0, 2, 3)))):
        (found,) = [one for one in proto.graph.initializer if one.name == name]
        found.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    return proto


GREY_CARD = ImagePreprocessing(channels=1, height=8, width=8, value_max=16, mean=(0.3,), std=(0.35,))
"""Preprocessing of `grey_classifier`'s pictures."""


def grey_pictures(count: int, seed: int) -> np.ndarray:
    """Make raw pictures of `grey_classifier`, (count, 1, 8, 8), from 0 to 16."""
    rng = np.random.default_rng(seed)
    waves = rng.uniform(0, 1, (count, 1, 8, 8)) * rng.uniform(0.4, 1, (count, 1, 1, 1))
    return (16 * waves).astype(np.float32)


def grey_classifier(seed: int = 0, channels: int = 16) -> onnx.ModelProto:
    """Make two blocks of Conv, BatchNormalization and Relu, and a Gemm: input (n, 1, 8, 8) -> logits (n, 3).

    The running statistics are those of `grey_pictures`.
    """
    rng = np.random.default_rng(seed)
    nodes = [
        helper.make_node("Conv", ["input", "w0"], ["h0"], name="conv0", pads=[1, 1, 1, 1]),
        batchnorm("h0", "n0", "bn0"),
        helper.make_node("Relu", ["n0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["h1"], name="conv1", pads=[1, 1, 1, 1]),
        batchnorm("h1", "n1", "bn1"),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("Flatten", ["r1"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["logits"], name="gemm"),
    ]
    constants = {
        "w0": rng.normal(size=(channels, 1, 3, 3)) / 3,
        "w1": rng.normal(size=(channels, channels, 3, 3)) / 12,
        "v": rng.normal(size=(channels * 64, 3)) / 8,
    }
    for name in ("bn0", "bn1"):
        ones = np.ones(channels)
        constants |= {f"{name}.{field}": ones for field in ("scale", "shift", "mean", "var")}
        constants[f"{name}.shift"] = rng.normal(size=channels) / 4
    constants = {name: array.astype(np.float32) for name, array in constants.items()}
    proto = model(nodes, {"input": ["n", 1, 8, 8]}, ["logits"], constants, dtype=np.float32)
    return with_statistics_of(proto, {"input": GREY_CARD.standardise(grey_pictures(200, seed=100 + seed))})


def with_statistics_of(proto: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return a model whose running statistics are those of some rows, layer after layer, as precise ones are."""
    fitted = onnx.ModelProto()
    fitted.CopyFrom(proto)
    tensors = {tensor.name: tensor for tensor in fitted.graph.initializer}
    for node in [node for node in fitted.graph.node if node.op_type == "BatchNormalization"]:
        (x,) = run32(with_output(fitted, node.input[0]), inputs)
        axes = tuple(axis for axis in range(x.ndim) if axis != 1)
        for name, values in ((node.input[3], x.mean(axis=axes)), (node.input[4], x.var(axis=axes))):
            tensors[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    return fitted


def classifier(
    rng: np.random.Generator, opset: int = 17, channels: int = 8, activation: str = "Relu"
) -> onnx.ModelProto:
    """Make three Conv blocks, the second depthwise, the third with the first added, a global average and a Gemm.

    x (n, 4, 6, 6) -> y (n, 5); its statistics are those of standard normal rows.
    """
    constants: dict[str, np.ndarray] = {}
    nodes: list[NodeProto] = []
    shapes = [(channels, 4, 3, 3), (channels, 1, 3, 3), (channels, channels, 3, 3)]
    groups, source = (1, channels, 1), "x"
    for place, (shape, group) in enumerate(zip(shapes, groups, strict=True)):
        fan_in = int(np.prod(shape[1:]))
        constants |= {f"w{place}": rng.normal(size=shape) / np.sqrt(fan_in)} | statistics(rng, channels, f"bn{place}")
        constants[f"bn{place}.scale"] = rng.uniform(0.5, 1.5, channels)
        nodes += [
            helper.make_node(
                "Conv", [source, f"w{place}"], [f"h{place}"], name=f"conv{place}", group=group, pads=[1] * 4
            ),
            batchnorm(f"h{place}", f"n{place}", f"bn{place}"),
        ]
        if place == 2:
            nodes.append(helper.make_node("Add", [f"n{place}", "r0"], ["sum"], name="add"))
        nodes.append(helper.make_node(activation, ["sum" if place == 2 else f"n{place}"], [f"r{place}"]))
        source = f"r{place}"
    nodes += [
        helper.make_node("GlobalAveragePool", [source], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["features"], name="flatten"),
        helper.make_node("Gemm", ["features", "v", "c"], ["y"], name="gemm"),
    ]
    constants |= {"v": rng.normal(size=(channels, 5)), "c": rng.normal(size=5)}
    made = model(
        nodes,
        {"x": ["n", 4, 6, 6]},
        ["y"],
        {name: array.astype(np.float32) for name, array in constants.items()},
        opset=opset,
        dtype=np.float32,
    )
    return with_statistics_of(made, classifier_rows(rng, 256))


def classifier_rows(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Make rows for `classifier`."""
    return {"x": rng.normal(size=(count, 4, 6, 6)).astype(np.float32)}


def sqnr_db(wanted: np.ndarray, given: np.ndarray) -> float:
    """Return the ratio of signal to noise in decibels."""
    noise = np.sum((wanted.astype(np.float64) - given) ** 2)
    return float(10 * np.log10(np.sum(wanted.astype(np.float64) ** 2) / noise)) if noise else np.inf


def varied_rows(count: int, seed: int) -> dict[str, np.ndarray]:
    """Make rows for `conv_blocks` that differ from each other in brightness and contrast."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4, 5, 5)) * rng.uniform(0.5, 1.5, (count, 1, 1, 1)) + rng.normal(size=(count, 1, 1, 1))
    return {"x": x.astype(np.float32)}


def set_training_mode(node: onnx.NodeProto) -> None:
    """Set a BatchNormalization node's training_mode, and give it the two outputs that go with it."""
    node.attribute.append(helper.make_attribute("training_mode", 1))
    node.output.extend(["new_mean", "new_var"])


def save_model(proto: onnx.ModelProto, folder: Path) -> Path:
    """Write FOLDER/net.onnx; return its path."""
    path = folder / "net.onnx"
    onnx.save(proto, path)
    return path


def with_output(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return a model that gives one of its values."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    del changed.graph.output[:]
    changed.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return changed


def folded(source: onnx.ModelProto) -> tuple[onnx.ModelProto, FoldReport]:
    """Fold a copy of a model, and check the result."""
    working = ir.from_proto(onnx.ModelProto.FromString(source.SerializeToString()))  # onnx-ir renames tensors in place
    report = fold(working)
    result = ir.to_proto(working)
    onnx.checker.check_model(result, full_check=True)
    return result, report


def quantised(
    source: onnx.ModelProto, folder: Path, way: str, rows: dict[str, np.ndarray] | None = None, **options: Any
) -> tuple[onnx.ModelProto, onnx.ModelProto, Int8Result]:
    """Fold a network and quantise it to int8, from STATISTICS or from SAMPLES; return both, and the result."""
    path, before, target = save_model(source, folder), folder / "folded.onnx", folder / "int8.onnx"
    working = load_model(path)
    fold(working)
    write_model(working, before)
    samples = (rows or classifier_rows(np.random.default_rng(7), 64)) if way == SAMPLES else None
    result = quantize_int8(before, target, unfolded=path, samples=samples, options=Int8Options(**options))
    written = onnx.load(target)
    onnx.checker.check_model(written, full_check=True)
    return onnx.load(before), written, result


def folded_again(folder: Path) -> onnx.ModelProto:
    """Fold FOLDER/unfolded.onnx, and return what that gives."""
    report = fold_file(folder / "unfolded.onnx", folder / "again.onnx").report
    assert report.batchnorm_after == 0
    return onnx.load(folder / "again.onnx")


class BatchNormalization(OpRun):
    """Inference by its definition: below opset 14, the evaluator's own normalises by the batch."""

    def _run(self, x: Any, scale: Any, shift: Any, mean: Any, var: Any, epsilon: float = 1e-5, **_: Any) -> tuple[Any]:
        shape = (-1, *[1] * (x.ndim - 2))
        normal = (x - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + epsilon)
        return ((scale.reshape(shape) * normal + shift.reshape(shape)).astype(x.dtype),)


class Pad(OpRun):
    """Padding and cropping by their definition: the evaluator's own knows no negative pads."""

    def _run(
        self,
        x: Any,
        pads: Any = None,
        constant: Any = None,
        axes: Any = None,
        mode: str = "constant",
        value: float = 0.0,
    ) -> tuple[Any]:
        places = range(x.ndim) if axes is None else [int(axis) % x.ndim for axis in axes]
        widths = np.zeros((x.ndim, 2), np.int64)
        widths[list(places)] = np.reshape([int(pad) for pad in pads], (2, -1)).T
        cut = [slice(max(-begin, 0), size - max(-end, 0)) for (begin, end), size in zip(widths, x.shape, strict=True)]
        filling = {"constant_values": value if constant is None else constant} if mode == "constant" else {}
        return (np.pad(x[tuple(cut)], np.maximum(widths, 0), mode=mode, **filling).astype(x.dtype),)  # type: ignore[call-overload]


def run64(source: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a float64 model through onnx's reference evaluator, whose sigmoid of large values overflows inside, to 0."""
    with np.errstate(over="ignore"):
        return list(ReferenceEvaluator(source, new_ops=[BatchNormalization, Pad]).run(None, dict(inputs)))


def run32(source: onnx.ModelProto, inputs: Mapping[str, np.ndarray], optimised: bool = False) -> list[np.ndarray]:
    """Run a float32 model through ONNX Runtime: as it is written, or with all of its optimisations."""
    options, levels = onnxruntime.SessionOptions(), onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(source.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(inputs)))


def assert_same(source: onnx.ModelProto, result: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> None:
    """Check that two models compute the same: float64 to 1e-10, float32 to 1e-5, relative to the largest output."""
    is_float64 = all(array.dtype == np.float64 for array in inputs.values())
    run, allowed = (run64, 1e-10) if is_float64 else (run32, 1e-5)
    assert [output.name for output in source.graph.output] == [output.name for output in result.graph.output]
    for wanted, got in zip(run(source, inputs), run(result, inputs), strict=True):
        assert wanted.shape == got.shape
        assert np.abs(wanted - got).max(initial=0.0) <= allowed * max(1.0, np.abs(wanted).max(initial=0.0))


def assert_same_weights(source: onnx.ModelProto, result: onnx.ModelProto, units: int = 2) -> None:
    """Check that two models have the same nodes, and weights that differ by so many units in the last place at most."""
    assert operators(source) == operators(result)
    weights, others = (
        {each.name: numpy_helper.to_array(each) for each in proto.graph.initializer} for proto in (source, result)
    )
    for node, other in zip(source.graph.node, result.graph.node, strict=True):
        assert [one in weights for one in node.input] == [one in others for one in other.input], node.name
        for one, two in zip(node.input, other.input, strict=True):
            if one not in weights or weights[one].dtype.kind != "f":
                continue
            difference = np.abs(weights[one].astype(np.float64) - others[two])
            assert (difference <= units * np.spacing(np.abs(weights[one])).astype(np.float64)).all(), (node.name, one)


def constants_of(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return the constants of a graph by name."""
    return {each.name: numpy_helper.to_array(each) for each in proto.graph.initializer}


def operators(source: onnx.ModelProto) -> list[str]:
    """Return the operator types in graph order."""
    return [node.op_type for node in source.graph.node]


def all_operators(source: onnx.ModelProto) -> list[str]:
    """Return the operator types of a graph and of the bodies inside it."""
    return [node.op_type for node in ir.from_proto(source).graph.all_nodes()]


def window_scores(path: Path, layers: Sequence[MonitoredLayer], rows: Mapping[str, np.ndarray]) -> list[float]:
    """Return each layer's drift score of one window of rows, by the monitor graph at `path`."""
    given = [one.mean(axis=0, dtype=np.float64) for one in run32(onnx.load(path), rows)]
    return [
        float(divergence(means, squares - means**2, np.array(layer.variances)).mean())
        for layer, means, squares in zip(layers, given[::2], given[1::2], strict=True)
    ]

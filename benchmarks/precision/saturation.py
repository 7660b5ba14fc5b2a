"""Sums of 16 bits: networks made to overflow them under plain 8 bits, and faults that are planted in a right file.

Every weight of an adversarial layer is nearly as large as the largest, neighbours have one sign, and inputs reach the
end of their range. With unsigned activations, signed weights for each channel and no reduced range, ONNX Runtime's own
quantiser lets pairs of products exceed 16 bits there, which processors with AVX2 and without VNNI clip. Ours must not:
a run of integer kernels then differs from a run of the same file in float32 by the rounding of the output alone, which
is one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from benchmarks.precision.bars import Bar, caught
from benchmarks.precision.digits import DATA, KEPT, MIN_SQNR_DB, data_config, sqnr_db, trained
from benchmarks.precision.other_quantisers import onnxruntime_static
from normfold.contract.precision.record import Precision, PrecisionKind, Recipe
from normfold.export.arrays import Tensor
from normfold.export.errors import PrecisionLossError
from normfold.export.fold.fold import fold
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.quantize.int8.quantize import quantize_int8
from normfold.export.quantize.int8.result import Int8Result
from normfold.export.quantize.int8.saturation import saturation
from normfold.export.quantize.proof.constants import check_constants
from normfold.export.quantize.proof.prove import Pair, prove_int8
from normfold.export.quantize.proof.requirements import require
from normfold.export.quantize.proof.rows import ProofRows
from normfold.export.quantize.proof.sessions import open_network
from normfold.models.data.data import load_dataset

MAX_SUM, MAX_STEPS = 32767, 1.0
ROWS, CHANNELS = 32, 16

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Adversarial:
    """One adversarial layer, quantised by one tool.

    Attributes:
        layer: its kind.
        tool: that quantised it.
        pair_sum: of two products that are added in 16 bits; exact, from the file.
        lost: greatest error that sums of 16 bits make, emulated, in steps of the output (1/255 of its range).
        steps: greatest difference between runs of integer kernels and in float32, on this processor, likewise.
        sqnr_db: of integer kernels against the float32 network.
    """

    layer: str
    tool: str
    pair_sum: int
    lost: float
    steps: float
    sqnr_db: float


LAYERS: dict[str, tuple[tuple[int, ...], dict[str, int], tuple[int, ...]]] = {
    "Conv 3 × 3": ((CHANNELS, CHANNELS, 3, 3), {}, (8, 8)),
    "Conv 1 × 1": ((CHANNELS, CHANNELS, 1, 1), {}, (8, 8)),
    "Conv of 3 channels": ((CHANNELS, 3, 3, 3), {}, (8, 8)),
    "Conv of 2 groups": ((CHANNELS, CHANNELS // 2, 3, 3), {"group": 2}, (8, 8)),
    "depthwise, twice": ((2 * CHANNELS, 1, 3, 3), {"group": CHANNELS}, (8, 8)),
    "Conv of sequences": ((CHANNELS, CHANNELS, 5), {}, (32,)),
    "Gemm": ((CHANNELS, CHANNELS), {"transB": 1}, ()),
}
"""By kind: shape of the weight, attributes, and the size of an image, a sequence, or a row."""

OURS, PLAIN = "normfold", "quantize_static, u8 × s8"


def measure_adversarial() -> Iterator[Adversarial]:
    """Yield each adversarial layer as quantised by either tool."""
    folder = KEPT / "saturation"
    folder.mkdir(parents=True, exist_ok=True)
    for kind, (shape, attributes, image) in LAYERS.items():
        rng = np.random.default_rng(0)
        source = folder / "layer.onnx"
        channels = shape[1] * attributes.get("group", 1)
        onnx.save(_network(rng, shape, attributes, (channels, *image)), source)
        rows = rng.uniform(0.7, 1, (ROWS, channels, *image)).astype(np.float32)
        rows.reshape(-1)[::97] = 0
        for tool in (PLAIN, OURS):
            target = folder / "int8.onnx"
            if tool == OURS:
                quantize_int8(source, target, samples={"input": rows})
            else:
                onnxruntime_static(activation="QUInt8", per_channel=True)(source, target, rows)
            (wanted,) = open_network(source, optimised=True)({"input": rows}).values()
            fused, unfused = (
                next(iter(open_network(target, optimised)({"input": rows}).values())) for optimised in (True, False)
            )
            step = float(wanted.max() - min(wanted.min(), 0)) / 255
            model = onnx.load(target)
            yield Adversarial(
                *(kind, tool, max(each.product for each in saturation(model)), steps_lost(model, rows, step)),
                *(float(np.abs(fused - unfused).max()) / step, sqnr_db(wanted, fused)),
            )


def steps_lost(model: onnx.ModelProto, rows: Float32Array, step: float) -> float:
    """Return the greatest error of sums of 16 bits, in steps of the output, of a quantised file of one layer.

    Pairs of products are added and clipped as `vpmaddubsw` does it, so that the figure does not depend on the
    processor: neighbours are the input channels of one tap.
    """
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (node,) = (each for each in model.graph.node if each.op_type in ("Conv", "Gemm"))
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    scale, zero = tensors["input_scale"], int(tensors["input_zero_point"])
    activations = np.clip(np.rint(rows / scale) + zero, 0, 255).astype(np.int64)
    weight = tensors["weight_quantized"].astype(np.int64)
    if node.op_type == "Gemm":
        activations, weight = activations[..., None], (weight if attributes.get("transB") else weight.T)[..., None]
    kernel = weight.shape[2:]
    axes = tuple(range(2, 2 + len(kernel)))
    windows = np.lib.stride_tricks.sliding_window_view(activations, kernel, axes)
    group = attributes.get("group", 1)
    lost = 0.0
    for place, own in enumerate(np.split(weight, group)):
        taken = np.split(windows, group, axis=1)[place].reshape(len(rows), own.shape[1], -1, int(np.prod(kernel)))
        patches = taken.transpose(0, 2, 3, 1).reshape(-1, own[0].size)  # (positions of all rows, taps, channels)
        flat = own.reshape(len(own), own.shape[1], -1).transpose(0, 2, 1).reshape(len(own), -1)
        if flat.shape[1] % 2:
            patches, flat = (np.pad(each, ((0, 0), (0, 1))) for each in (patches, flat))
        for output, weights in enumerate(flat):
            sums = (patches * weights).reshape(len(patches), -1, 2).sum(axis=2)
            error = (np.clip(sums, -MAX_SUM - 1, MAX_SUM) - sums).sum(axis=1)
            scales = tensors["weight_scale"].reshape(-1)
            of_output = float(scales[(place * len(own) + output) % scales.size])
            lost = max(lost, float(np.abs(error).max()) * float(scale) * of_output / step)
    return lost


def _network(
    rng: np.random.Generator, shape: tuple[int, ...], attributes: Mapping[str, Any], row: tuple[int, ...]
) -> onnx.ModelProto:
    """Return one layer and a Relu: half of the outputs have positive weights alone, the others pairs of either sign."""
    weight = rng.uniform(0.9, 1, shape).astype(np.float32)
    signs = np.where(np.arange(shape[1]) // 2 % 2, -1, 1).reshape(1, -1, *[1] * (len(shape) - 2))
    weight[1::2] *= signs
    kind = "Gemm" if len(shape) == 2 else "Conv"
    nodes = [
        helper.make_node(kind, ["input", "weight"], ["given"], name="layer", **attributes),
        helper.make_node("Relu", ["given"], ["output"], name="relu"),
    ]
    value: dict[str, list[str | int | None]] = {
        "input": ["n", *row],
        "output": ["n", shape[0], *[None] * (len(row) - 1)],
    }
    infos = {name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, each) for name, each in value.items()}
    initializers = [numpy_helper.from_array(weight, "weight")]
    graph = helper.make_graph(nodes, "adversarial", [infos["input"]], [infos["output"]], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def bars_of_adversarial(found: list[Adversarial]) -> list[Bar]:
    """Return the bars: plain 8 bits overflow, ours do not, and compute what the file says."""
    bars = []
    for each in found:
        if each.tool == PLAIN:
            bars.append(Bar(f"{each.layer}, {PLAIN}", "steps lost in 16 bits", each.lost, minimum=2 * MAX_STEPS))
        else:
            bars += [
                Bar(f"{each.layer}, {OURS}", "largest sum of a pair", each.pair_sum, maximum=MAX_SUM),
                Bar(f"{each.layer}, {OURS}", "steps lost in 16 bits", each.lost, maximum=0),
                Bar(f"{each.layer}, {OURS}", "kernels from float32, steps", each.steps, maximum=MAX_STEPS),
                Bar(f"{each.layer}, {OURS}", "SQNR, dB", each.sqnr_db, minimum=MIN_SQNR_DB[DATA]),
            ]
    return bars


def planted_faults() -> Iterator[Bar]:
    """Yield whether each fault is refused that is planted in a convnet's int8 file, and that the right file is not."""
    dataset = load_dataset(data_config("convnet"))
    source = trained("convnet", 0, dataset)
    folded, target = source.with_suffix(".folded.onnx"), source.with_suffix(".planted.onnx")
    model = load_model(source)
    fold(model)
    save_model(model, folded)
    result = quantize_int8(folded, target, samples={"input": dataset.tensors(dataset.splits.validation)})
    test = dataset.splits.test
    rows = ProofRows({"input": dataset.tensors(test)}, {"logits": dataset.y[test]})
    yield Bar("right file", "refused", float(_is_refused(folded, target, result, rows)), maximum=0)
    right = onnx.load(target)
    for fault, (ending, change) in FAULTS.items():
        for name in [each.name for each in right.graph.initializer if each.name.endswith(ending)]:
            wrong = onnx.ModelProto()
            wrong.CopyFrom(right)
            tensor = next(each for each in wrong.graph.initializer if each.name == name)
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(change(array.copy()).astype(array.dtype), name))
            onnx.save(wrong, target)
            yield caught(name, fault, _is_refused(folded, target, result, rows))


def _is_refused(folded: Path, target: Path, result: Int8Result, rows: ProofRows) -> bool:
    """Return whether `normfold quantize` would refuse a file, by the same checks."""
    try:
        check_constants(target, result)
        proof = prove_int8(Pair(folded, target, classes=("logits",)), result, rows)
        require(Precision(kind=PrecisionKind.INT8, recipe=Recipe(), proof=proof), must_be_faster=False)
    except PrecisionLossError:
        return True
    return False


def _one_wrong(array: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return an array of which the first number, or the first output's, was changed."""
    if not array.ndim:
        return change(array)
    array[0] = change(array[0])
    return array


FAULTS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "scale of one output, twice": ("weight_scale", lambda scale: _one_wrong(scale, lambda each: each * 2)),
    "scale of activations, half": ("_scale", lambda scale: scale / 2),
    "weights that saturate": ("weight_quantized", lambda weight: _one_wrong(weight, lambda each: each * 0 + 127)),
    "bias of one output, by a tenth": (
        "bias_quantized",
        lambda bias: _one_wrong(bias, lambda each: each + np.abs(bias).max() // 10),
    ),
}
"""By fault: which constants of the file it is planted in, one after the other, and how they are changed."""

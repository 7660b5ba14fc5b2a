"""Time, size and signal to noise of larger networks in int8, beside what ONNX Runtime's own quantiser makes of them.

Weights are random, and so only times, sizes and the noise of the arithmetic count, no accuracy. The running statistics
are those of the inputs that the networks are measured on: standard normal rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.latency import Ratio, measure, ratio, session_of
from benchmarks.precision.digits import KEPT, sqnr_db
from benchmarks.progress import show_progress
from normfold.export.fold.fold import fold
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.quantize.int8.quantize import quantize_int8

SHAPE, CLASSES = (3, 224, 224), 1000
SAMPLES, TEST_ROWS, STATISTICS_ROWS = 16, 8, 16
FLOAT = "folded float32"

MAX_RATIO = {"resnet18": 0.58, "resnet50": 0.58, "mobilenet_v2": 0.78}
MAX_SIZE = 0.30
MAX_ROWS_OF_QUANTISING = 150
"""Quantising ResNet-50 without data may take the processor time of so many rows of the folded network."""

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Speed:
    """One network in one form."""

    network: str
    form: str
    samples: int
    ratio: Ratio
    size: float
    sqnr_db: float
    rows_of_quantising: float
    """Processor time of quantising, in rows of the folded network."""


def measure_speed(network: str, rounds: int) -> list[Speed]:
    """Return the figures of a network in every form, times relative to the folded float32 network.

    Args:
        network: a registered architecture.
        rounds: interleaved measurements of each form.
    """
    source = written(network)
    folded = source.with_suffix(".folded.onnx")
    model = load_model(source)
    fold(model)
    save_model(model, folded)
    rows = np.random.default_rng(1).standard_normal((SAMPLES + TEST_ROWS, *SHAPE), np.float32)
    samples, test = rows[:SAMPLES], rows[SAMPLES:]
    paths, seconds = {FLOAT: folded}, {FLOAT: 0.0}
    for form, (make, _) in FORMS.items():
        show_progress(f"{network}: {form}")
        paths[form] = source.with_suffix(f".{form.replace(' ', '-')}.onnx")
        started = time.process_time()
        make(source, folded, paths[form], samples)
        seconds[form] = time.process_time() - started
    times = measure(
        {form: _one_row(path) for form, path in paths.items()},
        rounds,
        lambda done: show_progress(f"{network}: round {done}"),
    )
    row_s = float(np.median(times[FLOAT]))
    wanted = session_of(folded).run(None, {"input": test})[0]
    return [
        Speed(
            *(network, form, FORMS[form][1], ratio(times[form], times[FLOAT])),
            *(
                path.stat().st_size / folded.stat().st_size,
                sqnr_db(wanted, session_of(path).run(None, {"input": test})[0]),
            ),
            seconds[form] / row_s,
        )
        for form, path in paths.items()
        if form != FLOAT
    ]


def written(network: str) -> Path:
    """Return the unfolded file of a network with random weights, whose statistics are those of standard normal rows."""
    import torch

    from normfold.models.architectures.registry import Architecture, build
    from normfold.models.onnx.to_onnx import InputSpec, to_onnx

    path = KEPT / f"{network}.onnx"
    if not path.is_file():
        KEPT.mkdir(parents=True, exist_ok=True)
        show_progress(f"making {network}")
        torch.manual_seed(0)
        built = build(Architecture(name=network, input_shape=SHAPE, classes=CLASSES))
        for module in built.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            built.train()(torch.randn(STATISTICS_ROWS, *SHAPE))
        to_onnx(built.eval(), path, {"input": InputSpec(SHAPE)})
    return path


def faults(speeds: list[Speed]) -> list[str]:
    """Return which bars are missed."""
    found = []
    for each in speeds:
        if each.form not in (OURS, OURS_WITH_DATA):
            continue
        limit = MAX_RATIO[each.network]
        missed = {
            f"{each.ratio.value:.2f} of the float32 time, allowed {limit}": each.ratio.value > limit,
            f"{each.size:.2f} of the float32 size, allowed {MAX_SIZE}": each.size > MAX_SIZE,
            f"quantised in the time of {each.rows_of_quantising:.0f} rows, allowed {MAX_ROWS_OF_QUANTISING}": (
                each.form == OURS and each.network == "resnet50" and each.rows_of_quantising > MAX_ROWS_OF_QUANTISING
            ),
        }
        found += [f"{each.network}, {each.form}: {text}" for text, is_missed in missed.items() if is_missed]
    return found


def _one_row(path: Path) -> Path:
    """Return a file like another that takes one row."""
    import onnx

    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    fixed = path.with_suffix(".one.onnx")
    onnx.save(model, fixed)
    return fixed


def _from_statistics(source: Path, folded: Path, target: Path, _samples: Float32Array) -> None:
    quantize_int8(folded, target, unfolded=source)


def _with_data(_source: Path, folded: Path, target: Path, samples: Float32Array) -> None:
    quantize_int8(folded, target, samples={"input": samples})


def _by_onnxruntime(**options: object) -> Callable[[Path, Path, Path, Float32Array], None]:
    def make(_source: Path, folded: Path, target: Path, samples: Float32Array) -> None:
        from onnxruntime.quantization import CalibrationDataReader, quantize_static

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self._rows = iter(samples)

            def get_next(self) -> dict[str, Float32Array] | None:
                row = next(self._rows, None)
                return None if row is None else {"input": row[None]}

        quantize_static(folded, target, Reader(), **options)

    return make


OURS, OURS_WITH_DATA = "normfold, statistics", "normfold, data"

FORMS: dict[str, tuple[Callable[[Path, Path, Path, Float32Array], None], int]] = {
    OURS: (_from_statistics, 0),
    OURS_WITH_DATA: (_with_data, SAMPLES),
    "quantize_static": (_by_onnxruntime(), SAMPLES),
    "quantize_static, reduce_range": (_by_onnxruntime(reduce_range=True, per_channel=True), SAMPLES),
}
"""How each form is made, and the number of samples that it needs."""

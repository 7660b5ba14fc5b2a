"""Time, size and signal to noise of larger networks in int8, beside what other quantisers make of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.latency import Ratio, measure, ratio, session_of
from benchmarks.precision.bars import Bar
from benchmarks.precision.digits import sqnr_db
from benchmarks.precision.large import SHAPE, written
from benchmarks.precision.other_quantisers import Make, has_onnxsim, onnxruntime_static, onnxsim_static
from benchmarks.progress import show_progress
from normfold.export.fold.fold import fold
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.quantize.int8.quantize import quantize_int8

SAMPLES, TEST_ROWS = 16, 8
FLOAT, OURS, OURS_WITH_DATA = "folded float32", "normfold, statistics", "normfold, data"

OTHERS: dict[str, Make] = {
    "quantize_static": onnxruntime_static(),
    "quantize_static, reduce_range": onnxruntime_static(reduce_range=True, per_channel=True),
    **({"onnxsim.quantize_static": onnxsim_static} if has_onnxsim() else {}),
}
"""Other tools, which need samples."""

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
    for form in (OURS, OURS_WITH_DATA, *OTHERS):
        show_progress(f"{network}: {form}")
        paths[form] = source.with_suffix(f".{form.replace(' ', '-')}.onnx")
        started = time.process_time()
        _quantise(form, source, folded, paths[form], samples)
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
            *(network, form, 0 if form == OURS else SAMPLES, ratio(times[form], times[FLOAT])),
            *(
                path.stat().st_size / folded.stat().st_size,
                sqnr_db(wanted, session_of(path).run(None, {"input": test})[0]),
            ),
            seconds[form] / row_s,
        )
        for form, path in paths.items()
        if form != FLOAT
    ]


def bars(speeds: list[Speed]) -> list[Bar]:
    """Return the bars of our own forms."""
    found = []
    for each in speeds:
        if each.form not in (OURS, OURS_WITH_DATA):
            continue
        subject = f"{each.network}, {each.form.removeprefix('normfold, ')}"
        found += [
            Bar(subject, "time / float32", each.ratio.value, maximum=MAX_RATIO[each.network]),
            Bar(subject, "size / float32", each.size, maximum=MAX_SIZE),
        ]
        if each.form == OURS and each.network == "resnet50":
            found.append(
                Bar(subject, "quantised in rows' time", each.rows_of_quantising, maximum=MAX_ROWS_OF_QUANTISING)
            )
    return found


def _quantise(form: str, source: Path, folded: Path, target: Path, samples: Float32Array) -> None:
    if form == OURS:
        quantize_int8(folded, target, unfolded=source)
    elif form == OURS_WITH_DATA:
        quantize_int8(folded, target, samples={"input": samples})
    else:
        OTHERS[form](folded, target, samples)


def _one_row(path: Path) -> Path:
    """Return a file like another that takes one row."""
    import onnx

    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    fixed = path.with_suffix(".one.onnx")
    onnx.save(model, fixed)
    return fixed

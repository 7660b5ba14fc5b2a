"""Float32 and float16 on an NVIDIA GPU, beside torch: `make bench-gpu BENCH_OPTIONS=--precision`.

ResNet-50 and MobileNetV2 with seeded weights, 1 and 32 rows: the folded network in float32 and in float16, with the
options of ONNX Runtime that may bring it nearer to the card, and as peers torch in eager mode in float16 with channels
last, and torch.compile of that. Milliseconds a run, inputs and outputs on the device, and from and to host memory, and
how near the outputs are to those of the first way that ran, float32.

Each line is printed as soon as it is measured, what matters most first. A way that cannot be run says why, and the
others go on. With `--device cpu` a small network runs the same code on the CPU; its times say nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.ways import Run, Runs, TorchVariant, Variant, Way, make_network, open_way
from benchmarks.progress import show_progress
from normfold.contract.errors import first_line
from normfold.contract.precision.signal_to_noise import signal_to_noise_db


@dataclass(frozen=True)
class Subject:
    """A network to measure: its title, its name in the registry, and the shape of a row."""

    title: str
    name: str
    shape: tuple[int, ...]


SUBJECTS = {
    "cuda": (Subject("ResNet-50", "resnet50", (3, 224, 224)), Subject("MobileNetV2", "mobilenet_v2", (3, 224, 224))),
    "cpu": (Subject("ConvNet", "convnet", (1, 8, 8)),),
}
"""By device."""

ROWS = (1, 32)
WINDOW_S = {"cuda": 0.3, "cpu": 0.01}
"""Seconds of one measurement, by device."""


_NHWC, _GRAPH = {"prefer_nhwc": "1"}, {"enable_cuda_graph": "1"}
MAIN: tuple[Way, ...] = (
    Variant("float32", is_float16=False),
    Variant("float16", is_float16=True),
    Variant("float16, NHWC", is_float16=True, options=_NHWC),
    Variant("float16, NHWC, CUDA graph", is_float16=True, options=_NHWC | _GRAPH, keeps_addresses=True),
    TorchVariant("torch float16, channels last", is_compiled=False),
    TorchVariant("torch.compile of that", is_compiled=True),
)
"""What is measured first, for all networks."""

FURTHER: tuple[Way, ...] = (
    Variant("float32, TF32", is_float16=False, options={"use_tf32": "1"}),
    Variant("float32, CUDA graph", is_float16=False, options=_GRAPH, keeps_addresses=True),
    Variant("float16, CUDA graph", is_float16=True, options=_GRAPH, keeps_addresses=True),
    Variant("float16, NHWC, fused bias", is_float16=True, options=_NHWC | {"fuse_conv_bias": "1"}),
    Variant("float16, TensorRT", is_float16=True, provider="tensorrt", options={"trt_fp16_enable": "True"}),
)
"""What is measured if time is left."""


def print_precisions(folder: Path, rounds: int, device: str, minutes: float) -> None:
    """Measure and print, until the minutes are over.

    Args:
        folder: for the files of the networks.
        rounds: measurements of each way; the median counts.
        device: `cuda` or `cpu`.
        minutes: no measurement begins after them; what is left out is named.
    """
    ends = time.monotonic() + 60 * minutes
    made: dict[Subject, tuple[Any, dict[bool, Path]]] = {}
    references: dict[tuple[Subject, int], np.ndarray] = {}
    print(f"{'network, rows, way':52} {'on device':>10} {'from host':>10} {'dB':>6}   (ms a run; dB to float32)")
    for subject, rows, way in parts_of(SUBJECTS[device]):
        label = f"{subject.title}, {rows:2} row{'s' * (rows > 1)}, {way.name}"
        if time.monotonic() > ends:
            print(f"{label}: not measured, {minutes:g} minutes are over", flush=True)
            continue
        show_progress(label)
        try:
            if subject not in made:
                made[subject] = make_network(subject.name, subject.shape, folder)
            images = np.random.default_rng(0).standard_normal((rows, *subject.shape)).astype(np.float32)
            runs = open_way(way, *made[subject], images, device)
            got = runs[1]()
            decibels = signal_to_noise_db(references.setdefault((subject, rows), got), got)
            times = [1e3 * seconds for seconds in median_seconds(runs, rounds, WINDOW_S[device])]
        except Exception as error:  # noqa: BLE001 -- ONNX Runtime and torch raise many kinds; the others go on
            print(f"{label}: cannot be run ({first_line(error)})", flush=True)
            continue
        print(f"{label:52} {times[0]:10.3f} {times[1]:10.3f} {decibels:6.1f}", flush=True)


def parts_of(subjects: Sequence[Subject]) -> Iterator[tuple[Subject, int, Way]]:
    """Yield what is measured, in order: MAIN of all networks before FURTHER of any."""
    for ways in (MAIN, FURTHER):
        for subject in subjects:
            for rows in ROWS:
                for way in ways:
                    yield subject, rows, way


def median_seconds(runs: Runs, rounds: int, window_s: float) -> list[float]:
    """Return the median seconds of each run, over rounds in which they take turns."""
    seconds = [[seconds_of(run, window_s) for run in runs] for _ in range(rounds)]
    return [statistics.median(times) for times in zip(*seconds, strict=True)]


def seconds_of(run: Run, window_s: float = WINDOW_S["cuda"]) -> float:
    """Return the mean seconds per run."""
    runs, started = 0, time.perf_counter()
    while time.perf_counter() - started < window_s:
        run()
        runs += 1
    return (time.perf_counter() - started) / runs

"""Latency of models in ONNX Runtime, compared robustly on a noisy machine.

Times are CPU seconds of the one thread that runs the model, so that other processes do not count.

Every model is measured in every round, in random order: whatever slows the machine down for longer than a round slows
all models. A measurement is the mean of the runs that fill `WINDOW_S`, after one warm-up run, which loads the model's
weights into the caches. Sessions are created again every few rounds, since the layout of their memory changes times by
a few per cent.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

WINDOW_S = 0.05
"""Minimum duration of a measurement, in seconds."""

ROUNDS_PER_SESSION = 10
RESAMPLES = 2000

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """Ratio of two medians, with its 95 % bootstrap interval over the rounds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the ratio with its interval, as in a table."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def session_of(path: Path) -> onnxruntime.InferenceSession:
    """Return a session on the CPU with all graph optimisations and one thread."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure(models: Mapping[str, Path], rounds: int, progress: Callable[[int], None]) -> dict[str, Times]:
    """Return the CPU seconds per run of each model, one for each round.

    Args:
        models: files that take the same inputs.
        rounds: measurements of each model.
        progress: called with the number of rounds done.
    """
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in models}
    repeats = 0
    runs: dict[str, Callable[[], Any]] = {}
    for index in range(rounds):
        if index % ROUNDS_PER_SESSION == 0:
            runs.clear()
            gc.collect()
            runs = {name: _run_of(models[name]) for name in _shuffled(models, rng)}
            repeats = repeats or max(1, round(WINDOW_S / min(_seconds(run, 1) for run in runs.values())))
        for name in _shuffled(models, rng):
            times[name].append(_seconds(runs[name], repeats))
        progress(index + 1)
    return {name: np.array(seconds) for name, seconds in times.items()}


def ratio(times: Times, reference: Times) -> Ratio:
    """Return the ratio of one model's time to another's, both measured in the same rounds."""
    drawn = np.random.default_rng(0).integers(0, len(times), (RESAMPLES, len(times)))
    resampled = np.median(times[drawn], axis=1) / np.median(reference[drawn], axis=1)
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Ratio(float(np.median(times) / np.median(reference)), float(low), float(high))


def _run_of(path: Path) -> Callable[[], Any]:
    session = session_of(path)
    rng = np.random.default_rng(0)
    inputs = {value.name: rng.standard_normal(value.shape, np.float32) for value in session.get_inputs()}
    return lambda: session.run(None, inputs)


def _seconds(run: Callable[[], Any], repeats: int) -> float:
    """Return the mean CPU seconds of some runs, after a warm-up run."""
    run()
    started = time.thread_time()
    for _ in range(repeats):
        run()
    return (time.thread_time() - started) / repeats


def _shuffled(names: Mapping[str, Path], rng: np.random.Generator) -> list[str]:
    return [str(name) for name in rng.permutation(list(names))]

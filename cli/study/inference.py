"""Cost of BatchNormalization in ONNX Runtime: a network is exported and folded, and both models run by turns."""

from __future__ import annotations

import math
import multiprocessing
import random
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

UNFOLDED, FOLDED = "unfolded", "folded"
BATCHES = (1, 64)
SESSIONS = 10
"""Number of sets of sessions for each network: the memory layout of a session can change its time by some per cent."""
LARGE_BATCH = 4096
"""Rows of the batch with which memory is measured."""


@dataclass(frozen=True)
class InferenceCost:
    """Cost of one model file."""

    microseconds: dict[tuple[int, bool], float]
    """Median time of a run, by batch size and graph optimisation."""
    file_bytes: int
    peak_bytes: float
    """Increase of the peak memory of a process of its own by a run of LARGE_BATCH, without graph optimisation; NaN on
    systems without /proc."""


def inference_costs(network: nn.Module, folder: Path, rounds: int, seed: int) -> dict[str, InferenceCost]:
    """Export a network, fold it, and measure both models by turns, on one thread.

    Args:
        network: in eval mode, for images (N, 1, 8, 8).
        folder: for the two files.
        rounds: number of runs of each session, for each of SESSIONS sets of sessions.
        seed: of the order in which sessions are created and run.
    """
    from normfold.export.files.fold_file import fold_file
    from normfold.models.onnx.to_onnx import InputSpec, to_onnx

    paths = {kind: folder / f"{kind}.onnx" for kind in (UNFOLDED, FOLDED)}
    to_onnx(network, paths[UNFOLDED], {"input": InputSpec((1, 8, 8))})
    fold_file(paths[UNFOLDED], paths[FOLDED])
    times = _times(paths, rounds, seed)
    return {
        kind: InferenceCost(
            {(batch, optimised): times[kind, batch, optimised] for batch in BATCHES for optimised in (False, True)},
            path.stat().st_size,
            _peak_alone(path),
        )
        for kind, path in paths.items()
    }


def _times(paths: dict[str, Path], rounds: int, seed: int) -> dict[tuple[str, int, bool], float]:
    """Return the median microseconds of a run, by (kind, batch, optimised)."""
    order = random.Random(seed)
    settings = [(kind, optimised) for kind in paths for optimised in (False, True)]
    keys = [(kind, batch, optimised) for batch in BATCHES for kind, optimised in settings]
    inputs = {batch: {"input": _images(batch)} for batch in BATCHES}
    seconds: dict[tuple[str, int, bool], list[float]] = {key: [] for key in keys}
    for _ in range(SESSIONS):
        order.shuffle(settings)
        sessions = {(kind, optimised): _session(paths[kind], optimised) for kind, optimised in settings}
        for _ in range(rounds):
            order.shuffle(keys)
            for key in keys:
                kind, batch, optimised = key
                session = sessions[kind, optimised]
                session.run(None, inputs[batch])  # loads its weights into the caches
                started = time.perf_counter()
                session.run(None, inputs[batch])
                seconds[key].append(time.perf_counter() - started)
    return {key: 1e6 * statistics.median(values) for key, values in seconds.items()}


def _session(path: Path, optimised: bool) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _images(rows: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).standard_normal((rows, 1, 8, 8), np.float32)


def _peak_alone(path: Path) -> float:
    """Run `run_and_peak` in a process of its own, since a peak never decreases."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run_and_peak, path).result()


def run_and_peak(path: Path) -> float:
    """Return the increase in bytes of this process's peak resident memory by one run of a large batch."""
    session, large = _session(path, False), {"input": _images(LARGE_BATCH)}
    session.run(None, {"input": _images(1)})
    before = _peak()
    session.run(None, large)
    return _peak() - before


def _peak() -> float:
    """Return this process's peak resident memory in bytes; getrusage would include that of its parent."""
    status = Path("/proc/self/status")
    if not status.exists():
        return math.nan
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024.0 * int(line.split()[1])

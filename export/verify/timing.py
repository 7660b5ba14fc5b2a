"""How long a run takes before and after a fold, with the optimisations of ONNX Runtime that a service uses."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from normfold.contract.errors import SetupError
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.errors import ModelFileError
from normfold.export.graph.pixels import FromPixels
from normfold.export.onnx_io.model_file import load_model
from normfold.export.verify.choose_inputs import find_sizes
from normfold.export.verify.inputs import read_inputs, standardiser
from normfold.export.verify.runner import Inputs, Runner, in_one_line, start_onnxruntime

MIN_RUNS, MAX_RUNS = 10, 200
"""Runs of each model, of which the median counts."""
SECONDS = 2.0
"""Time after which no further run begins, beyond the fewest."""
WARM_UP_RUNS = 2


@dataclass(frozen=True)
class Timing:
    """Milliseconds that a run takes before and after a fold, on one thread: the medians of so many runs of each."""

    before_ms: float
    after_ms: float
    runs: int

    def to_dict(self) -> dict[str, float | int]:
        """Return plain types for JSON."""
        return {"before_ms": self.before_ms, "after_ms": self.after_ms, "runs": self.runs}


def time_models(
    original: Path,
    folded: Path,
    inputs: Path | None = None,
    pixels: FromPixels | None = None,
    progress: ProgressCallback = ignore_progress,
) -> Timing:
    """Time two models on the same input, on one thread, run by run in turns.

    Args:
        original: the unfolded model.
        folded: the folded one.
        inputs: an .npz file with one array for each input; a random input without it.
        pixels: the folded model takes 8-bit pixels; the original gets them standardised.
        progress: called as the runs begin.

    Raises:
        ModelFileError: a model cannot be read, or ONNX Runtime cannot run it on the CPU.
        ModelInputError: no input can be made, or the one given does not fit.
    """
    first, second = Runner(original), Runner(folded)
    standardise = standardiser(first, pixels)
    if inputs is not None:
        given = read_inputs(inputs, second.inputs)
    else:
        given = find_sizes(second.inputs, lambda one: first.run(standardise(one)), original).make(seed=0)
    progress("timing both models")
    return _time(_optimised(first, standardise(given)), _optimised(second, given))


def _optimised(runner: Runner, given: Inputs) -> Callable[[], object]:
    """Return a function that runs a model on an input, on one thread and with all optimisations."""
    try:
        run = start_onnxruntime(runner.path, load_model(runner.path), optimised=True)
    except SetupError:
        raise
    except Exception as error:  # noqa: BLE001 -- ONNX Runtime raises many kinds for a model that it does not know
        raise ModelFileError(runner.path, f"cannot be timed by ONNX Runtime: {in_one_line(error)}") from None
    names = [info.name for info in runner.outputs]
    return lambda: run(names, dict(given))


def _time(before: Callable[[], object], after: Callable[[], object]) -> Timing:
    for _ in range(WARM_UP_RUNS):
        before(), after()
    times: dict[Callable[[], object], list[float]] = {before: [], after: []}
    end = time.perf_counter() + SECONDS
    runs = 0
    while runs < MIN_RUNS or (runs < MAX_RUNS and time.perf_counter() < end):
        for run in (before, after) if runs % 2 == 0 else (after, before):
            start = time.perf_counter()
            run()
            times[run].append(1000.0 * (time.perf_counter() - start))
        runs += 1
    return Timing(statistics.median(times[before]), statistics.median(times[after]), runs)

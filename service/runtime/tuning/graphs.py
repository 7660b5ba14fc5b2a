"""Replay a CUDA graph for the batch sizes where that is faster: decided while the network loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np

from normfold.contract.errors import NormfoldError
from normfold.service.runtime.cuda_graph import OPTIONS, CudaGraph
from normfold.service.runtime.session import Session
from normfold.service.runtime.tuning.comparison import Comparison, describe_failure
from normfold.service.runtime.tuning.report import Trial
from normfold.service.settings import Settings

MAX_COPIED_BYTES = 4 * 2**20
"""Of inputs and outputs. Their copies to and from the GPU hold the GIL, and so the event loop, for about a millisecond;
those of a plain run do not."""


def add_graphs(
    session: Session,
    comparison: Comparison,
    settings: Settings,
    sizes: Sequence[int],
    clock: Callable[[], float] = perf_counter,
) -> dict[int, Trial]:
    """Capture a graph for each batch size, from the smallest, until one is not faster.

    A larger batch gains less: its kernels take longer, and their launches do not.

    Args:
        session: the network; it replays the graphs that are kept.
        comparison: of that network.
        settings: the user's options, and the seconds for all attempts.
        sizes: rows that batches are padded to, ascending; 1 where the rows are fixed.
        clock: in seconds.

    Returns:
        All attempts, by rows; none where the user has set `enable_cuda_graph`, or the provider is not CUDA.
    """
    trials: dict[int, Trial] = {}
    if session.provider != "cuda" or OPTIONS.keys() & settings.provider_options.keys():
        return trials
    started = clock()
    for rows in sizes:
        if clock() - started >= settings.gpu_tuning_s:
            trials[rows] = Trial(OPTIONS, f"not tried: {settings.gpu_tuning_s:g} s were used up")
        else:
            trials[rows] = _try_graph(session, comparison, rows)
        if not trials[rows].is_kept:
            break
    return trials


def _try_graph(session: Session, comparison: Comparison, rows: int) -> Trial:
    """Try a graph for a batch size; it is captured on other inputs than it is compared on."""
    inputs, plain = comparison.inputs_of(rows), comparison.runner_of(session)
    try:
        copied = sum(array.nbytes for array in (*inputs.values(), *plain(inputs)))
        if copied > MAX_COPIED_BYTES:
            problem = f"its inputs and outputs have {copied:,} bytes, and at most {MAX_COPIED_BYTES:,} are copied"
            return Trial(OPTIONS, problem)
        graph: CudaGraph = session.capture_graph({name: np.zeros_like(array) for name, array in inputs.items()})
        trial = comparison.compare(OPTIONS, plain, lambda given: graph.run(given, comparison.outputs), (rows,))
    except NormfoldError as error:
        return Trial(OPTIONS, describe_failure(error))
    if trial.is_kept:
        session.use_graph(graph)
    return trial

"""One run of a batch: the members' rows are concatenated, padded, run and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Protocol

import numpy as np

from normfold.service.batching.batch import Batch, BatchPolicy, Results
from normfold.service.errors import FailingTensorsError, RunError
from normfold.service.runtime.run_options import Cancel
from normfold.service.runtime.session import Array


class RunNetwork(Protocol):
    """Runs a network once; may be called from a thread."""

    def __call__(
        self, tensors: Mapping[str, Array], outputs: Sequence[str], cancel: Cancel | None = None
    ) -> list[Array]:
        """Return the outputs, in the order of their names."""


def run_batch(run: RunNetwork, batch: Batch, policy: BatchPolicy) -> Results:
    """Run a batch, in the calling thread.

    Returns:
        Output name to array, with as many rows as the batch: those of its first member first.

    Raises:
        RunError: the network failed, was cancelled, or gave another number of rows.
        FailingTensorsError: so it did for one request, and it still runs on other tensors. (A client could otherwise
            raise alerts on the service's faults at will.)
        InvalidRequestError: ONNX Runtime rejected the tensors.
    """
    batch.run_started_at = perf_counter()
    members = batch.members
    first = members[0][0]
    outputs = first.outputs
    if len(members) > 1 and any(request.outputs != outputs for request, _, _ in members):
        outputs = list(dict.fromkeys(name for request, _, _ in members for name in request.outputs))
    padding = policy.padding(batch.rows) if policy.sizes and not first.runs_alone else 0
    if len(members) == 1 and not padding and (first.runs_alone or members[0][1:] == (0, first.rows)):
        tensors = first.tensors
    else:
        tensors = _concatenate(batch, padding)
    try:
        results = run(tensors, outputs, None if policy.inline else batch.cancel)
        if not first.runs_alone:
            rows = batch.rows + padding
            for name, array in zip(outputs, results, strict=True):
                if array.shape[:1] != (rows,):
                    raise RunError(f"Output {name!r} has the shape {list(array.shape)} for {rows} rows.")
    except RunError as error:
        if len(members) > 1 or batch.cancel.is_set or policy.known_inputs.fail_too(run, outputs):
            raise
        raise FailingTensorsError(error.detail) from error
    policy.known_inputs.note(tensors, first_row=not first.runs_alone)
    if padding:
        results = [array[:-padding] for array in results]
    return dict(zip(outputs, results, strict=True))


def _concatenate(batch: Batch, padding: int) -> dict[str, Array]:
    """Return the members' rows by input, and as many rows of zeros after them as `padding` says."""
    return {
        name: np.concatenate(
            [
                request.tensors[name] if stop - start == request.rows else request.tensors[name][start:stop]
                for request, start, stop in batch.members
            ]
            + ([np.zeros((padding, *array.shape[1:]), array.dtype)] if padding else [])
        )
        for name, array in batch.members[0][0].tensors.items()
    }

"""Warm up a session: run zeros through the network, and choose its batch size.

The first run of each size allocates, and on a GPU chooses algorithms; a network that cannot run fails here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from normfold.contract.manifest import Manifest, TensorSpec
from normfold.service.batching.batch import BatchPolicy
from normfold.service.batching.batch_size_tuning import (
    DEFAULT_MAX_BATCH_SIZE,
    MAX_INLINE_RUN_S,
    choose_batch_size,
    has_shape_switch_penalty,
    time_batch_sizes,
)
from normfold.service.batching.known_inputs import KnownInputs
from normfold.service.codec.json_tensors import DTYPES, Array
from normfold.service.errors import BundleLoadError, ProviderError, RunError
from normfold.service.repository.loaded_model import row_bytes
from normfold.service.runtime.providers.ort_messages import message_of
from normfold.service.runtime.session import Session
from normfold.service.settings import Settings

logger = logging.getLogger(__name__)


def warm_up(manifest: Manifest, session: Session, settings: Settings) -> BatchPolicy:
    """Run zeros through the network in all batch sizes that it will run, and measure the best one.

    Nothing is run where zeros may be no valid input (strings), or where an input has a free size besides the rows.

    Args:
        manifest: describes the network.
        session: the network.
        settings: the limits.

    Returns:
        The limits of its queue and of its batches.

    Raises:
        RunError: the network fails on zeros.
        BundleLoadError: an output has another number of rows than the inputs.
    """
    fixed = has_fixed_rows(manifest)
    max_rows = find_max_rows(manifest, settings)
    zeros = {spec.name: _zeros(spec, manifest) for spec in manifest.inputs}
    tensors = {name: array for name, array in zeros.items() if array is not None}
    if len(tensors) < len(zeros):
        logger.info("%s/%d is not warmed up: its inputs have free sizes or strings.", manifest.name, manifest.version)
        specs = {spec.name: (spec.datatype, spec.shape) for spec in manifest.inputs}
        delay_s = settings.max_batch_delay_ms / 1000
        return BatchPolicy(max_rows, settings.queue_capacity, delay_s=delay_s, known_inputs=KnownInputs(specs=specs))
    outputs = [spec.name for spec in manifest.outputs]

    def run(rows: int) -> None:
        results = session.run(
            {name: np.repeat(array, rows, axis=0) if rows > 1 else array for name, array in tensors.items()}, outputs
        )
        for name, array in zip(outputs, results, strict=True):
            if manifest.batchable and not fixed and array.shape[:1] != (rows,):
                shape = list(array.shape)
                raise BundleLoadError(
                    f"The manifest says that rows are independent, but {name!r} has the shape {shape} for {rows} rows."
                )

    def run_all(sizes: Sequence[int]) -> None:
        for size in sizes:
            run(size)

    run_all(session.warmup_order(max_rows))
    seconds = time_batch_sizes(run, max_rows)
    rows = max_rows if settings.max_batch_size and max_rows > 1 else choose_batch_size(seconds)
    run_s = seconds.get(rows, max(seconds.values()) * rows / max(seconds))
    inline = session.placement.runs_on_host and run_s <= MAX_INLINE_RUN_S
    text = ", ".join(f"{size}: {1e3 * time:.3f}" for size, time in seconds.items())
    where = "on the event loop" if inline else "in a thread"
    logger.debug("%s/%d: ms by rows %s; up to %d at once, %s.", manifest.name, manifest.version, text, rows, where)
    sizes = session.warmup_sizes(rows) if max_rows > 1 else ()
    if len(sizes) > 1 and session.caches_last_shape_only and has_shape_switch_penalty(run, sizes):
        _open_per_batch_size(session, run_all, sizes, f"{manifest.name}/{manifest.version}")
    else:
        run_all(sizes)
    return BatchPolicy(
        rows, settings.queue_capacity, inline, settings.max_batch_delay_ms / 1000, sizes, KnownInputs(tensors)
    )


def find_max_rows(manifest: Manifest, settings: Settings) -> int:
    """Return the most rows that a batch of a network may have; 1 where requests cannot share a batch."""
    if has_fixed_rows(manifest) or not manifest.batchable:
        return 1
    within_limit = max(1, settings.max_response_bytes // max(1, sum(row_bytes(manifest).values())))
    return min(settings.max_batch_size or DEFAULT_MAX_BATCH_SIZE, within_limit)


def has_fixed_rows(manifest: Manifest) -> bool:
    """Return whether an input has a fixed number of rows."""
    return any(spec.shape[:1] != (-1,) for spec in manifest.inputs)


def _open_per_batch_size(
    session: Session, run_all: Callable[[Sequence[int]], None], sizes: Sequence[int], name: str
) -> None:
    """Open a session for each batch size and run it; if that fails, as without memory, one session runs all sizes."""
    try:
        session.open_per_batch_size(sizes)
        run_all(sizes)
    except (BundleLoadError, ProviderError, RunError) as error:
        reason = message_of(error.__cause__ or error)
        text = "%s has one session for all batch sizes, and is slow where sizes alternate: %s"
        logger.warning(text, name, reason)
        session.open_per_batch_size(())
        run_all(sizes)


def _zeros(spec: TensorSpec, manifest: Manifest) -> Array | None:
    shape = [1 if size == -1 else size for size in spec.shape[:1]] + list(spec.shape[1:])
    preprocessing = manifest.card.preprocessing
    if preprocessing is not None and len(manifest.inputs) == 1:
        shape[1:] = preprocessing.sample_shape
    if -1 in shape or spec.datatype == "BYTES":
        return None
    return np.zeros(shape, DTYPES[spec.datatype])

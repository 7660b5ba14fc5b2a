"""One bundle, NAME/VERSION/: what must be true of it before it may answer.

    read_bundle   manifest readable and about this folder; exactly the files that it lists, as they were written
    open_bundle   network opened, its inputs and outputs those of the manifest, run once

A bundle fails with one sentence, never with a traceback: it becomes the reason why that version is unavailable.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from normfold.contract.bundle import check_files, read_own_manifest
from normfold.contract.manifest import MODEL_NAME, Manifest, TensorSpec, class_axis
from normfold.contract.monitor import MONITOR_CARD_NAME, MONITOR_NAME, read_monitor
from normfold.contract.samples import drift_folder
from normfold.service.batching.batch import BatchPolicy
from normfold.service.batching.batch_size_tuning import (
    INLINE_S,
    LARGEST_BATCH,
    best_batch,
    has_shape_switch_penalty,
    measure_batches,
)
from normfold.service.batching.batcher import Batcher
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.codec.json_tensors import DTYPES, Array
from normfold.service.codec.signature import shape_matches
from normfold.service.drift.monitor import DriftMonitor
from normfold.service.drift.sample_buffer import SampleBuffer
from normfold.service.drift.store import DriftStore
from normfold.service.errors import BundleError, ProviderError, RunError
from normfold.service.observability.request_trace import ModelStats
from normfold.service.repository.loaded_model import Model, Timeouts, row_bytes
from normfold.service.runtime.cpu_limits import share_of_processors
from normfold.service.runtime.providers.ort_messages import plain
from normfold.service.runtime.providers.session_request import as_text
from normfold.service.runtime.providers.table import CPU
from normfold.service.runtime.session import Session
from normfold.service.runtime.session_factory import open_session
from normfold.service.settings import Settings
from normfold.service.workers.process_files import ProcessFiles

logger = logging.getLogger(__name__)

_LARGE_ROW = 2**20
"""Bytes of a row's outputs from which on their memory is given back; else what many have read stays for ever."""


def read_bundle(folder: Path, repository: Path) -> Manifest:
    """Read a bundle's manifest, and check that its files are those of the folder.

    Args:
        folder: NAME/VERSION/.
        repository: what no file may lie outside of, once symbolic links are followed.

    Raises:
        ManifestError: the manifest cannot be read.
        DamagedBundleError: it is about another bundle, or a file is missing, changed, elsewhere or not listed.
        BundleError: it contradicts itself.
    """
    manifest = read_own_manifest(folder, repository)
    _check_facts(manifest)
    check_files(folder, manifest, repository)
    return manifest


def open_bundle(
    folder: Path, manifest: Manifest, settings: Settings, threads: int, workers: ThreadPool, stats: ModelStats
) -> Model:
    """Open the network of a bundle whose files have been checked, run it, and measure how much it should run at once.

    Args:
        folder: NAME/VERSION/.
        manifest: the folder's.
        settings: says which provider is asked for.
        threads: within one run.
        workers: where the network will run.
        stats: counts its runs.

    Raises:
        RuntimePackageError: no ONNX Runtime is installed, or two are.
        ProviderError: the provider asked for was not got.
        BundleError: the network does not open, is not the one that the manifest describes, or fails on zeros.
        RunError: the network fails on zeros.
    """
    session = open_session(
        folder / MODEL_NAME,
        settings.provider,
        threads,
        as_text(settings.provider_options),
        settings.device_id,
        settings.state_dir,
        arena=sum(row_bytes(manifest).values()) < _LARGE_ROW,
    )
    _compare("inputs", manifest.inputs, session.inputs, exact=True)
    _compare("outputs", manifest.outputs, session.outputs, exact=False)
    policy = _warm(manifest, session, settings)
    batcher = Batcher(session.run, policy, workers, stats.observe_run, stats.observe_refusal)
    timeouts = Timeouts(settings.timeout_s, settings.max_timeout_s)
    watch = _open_watch(folder, manifest, settings, workers)
    return Model(manifest, session, batcher, timeouts, stats, settings.max_response_bytes, watch)


def _open_watch(folder: Path, manifest: Manifest, settings: Settings, workers: ThreadPool) -> DriftMonitor | None:
    """Open what watches the bundle's inputs, if it has that; on the CPU, whatever runs the network."""
    if not settings.drift_share or not {MONITOR_NAME, MONITOR_CARD_NAME} <= manifest.files.keys():
        return None
    monitor = read_monitor(folder / MONITOR_CARD_NAME)
    session = open_session(folder / MONITOR_NAME, CPU, intra_op_threads=1)
    wanted = {name for layer in monitor.layers for name in (layer.means, layer.squares)}
    if session.inputs.keys() != {spec.name for spec in manifest.inputs} or not wanted <= session.outputs.keys():
        raise BundleError(f"{MONITOR_NAME!r} is not the graph that {MONITOR_CARD_NAME!r} describes.")
    store = reservoir = None
    if settings.state_dir is not None:
        files = ProcessFiles(drift_folder(settings.state_dir, manifest))
        store = DriftStore(files, monitor)
        reservoir = SampleBuffer(settings.keep_samples, files) if settings.keep_samples else None
    processors = share_of_processors(settings.workers)
    return DriftMonitor(monitor, session, workers, settings.drift_share, processors, store, reservoir)


def _check_facts(manifest: Manifest) -> None:
    """Refuse a manifest that contradicts itself."""
    if manifest.batchable and not all(spec.shape for spec in (*manifest.inputs, *manifest.outputs)):
        raise BundleError("The manifest says that rows are independent, but a value of it has no axis of rows.")
    outputs = {spec.name: spec for spec in manifest.outputs}
    for name in manifest.card.logits:
        if name not in outputs:
            raise BundleError(f"The manifest calls the output {name!r} logits, but there is no such output.")
        labels, shape = manifest.card.labels, outputs[name].shape
        if labels is not None and len(shape) in (2, 4) and shape[class_axis(shape)] not in (-1, len(labels)):
            classes = shape[class_axis(shape)]
            raise BundleError(f"The manifest has {len(labels)} labels for {classes} logits in the output {name!r}.")
    datatypes = [spec.datatype for spec in manifest.inputs]
    if manifest.takes_pixels and datatypes != ["UINT8"]:
        raise BundleError(f"The manifest says that the network takes pixels, but its inputs are {datatypes}.")
    preprocessing = manifest.card.preprocessing
    if preprocessing is not None and len(manifest.inputs) == 1:
        if not manifest.takes_pixels and datatypes[0] not in ("FP16", "FP32", "FP64"):
            raise BundleError(f"Preprocessing makes numbers with fractions, the network takes {datatypes[0]}.")
        shape, sample = manifest.inputs[0].shape, preprocessing.sample_shape
        if not shape_matches(sample, shape[1:]):
            raise BundleError(f"Preprocessing makes samples of shape {list(sample)}, the network takes {list(shape)}.")


def _compare(
    kind: str, stated: Sequence[TensorSpec], found: Mapping[str, tuple[str, tuple[int, ...]]], *, exact: bool
) -> None:
    """Hold a manifest's inputs or outputs against the network's own.

    The sizes of outputs may be known to one side alone: ONNX Runtime infers some, and calls an unknown rank ().
    """
    if sorted(spec.name for spec in stated) != sorted(found):
        names = [spec.name for spec in stated]
        raise BundleError(f"The manifest names the {kind} {names}, the network has {list(found)}.")
    for spec in stated:
        datatype, shape = found[spec.name]
        same = spec.shape == shape if exact else not shape or _compatible(spec.shape, shape)
        if spec.datatype != datatype or not same:
            raise BundleError(
                f"The manifest says that {spec.name!r} is {spec.datatype} {list(spec.shape)}, "
                f"in the network it is {datatype} {list(shape)}."
            )


def _compatible(one: Sequence[int], other: Sequence[int]) -> bool:
    return len(one) == len(other) and all(-1 in pair or len(set(pair)) == 1 for pair in zip(one, other, strict=True))


def _warm(manifest: Manifest, session: Session, settings: Settings) -> BatchPolicy:
    """Run zeros through the network: the first run allocates, and a network that cannot run is found out now.

    Left out where zeros may be no valid input (strings) or where a free size besides the rows cannot be guessed.

    Returns:
        How much it should run at once.
    """
    fixed = any(spec.shape[:1] != (-1,) for spec in manifest.inputs)
    within = max(1, settings.max_response_bytes // max(1, sum(row_bytes(manifest).values())))
    largest = 1 if fixed or not manifest.batchable else min(settings.max_batch_size or LARGEST_BATCH, within)
    zeros = {spec.name: _zeros(spec, manifest) for spec in manifest.inputs}
    tensors = {name: array for name, array in zeros.items() if array is not None}
    if len(tensors) < len(zeros):
        logger.info("%s/%d is not warmed: its inputs have free sizes or strings.", manifest.name, manifest.version)
        return BatchPolicy(largest, settings.queue_capacity, delay_s=settings.max_batch_delay_ms / 1000)
    outputs = [spec.name for spec in manifest.outputs]

    def run(rows: int) -> None:
        results = session.run(
            {name: np.repeat(array, rows, axis=0) if rows > 1 else array for name, array in tensors.items()}, outputs
        )
        for name, array in zip(outputs, results, strict=True):
            if manifest.batchable and not fixed and array.shape[:1] != (rows,):
                shape = list(array.shape)
                raise BundleError(
                    f"The manifest says that rows are independent, but {name!r} has the shape {shape} for {rows} rows."
                )

    def run_all(sizes: Sequence[int]) -> None:
        for size in sizes:
            run(size)

    run_all(session.first_sizes(largest))
    measured = measure_batches(run, largest)
    rows = largest if settings.max_batch_size and largest > 1 else best_batch(measured)
    longest = measured.get(rows, max(measured.values()) * rows / max(measured))
    inline = session.place.runs_on_host and longest <= INLINE_S
    text = ", ".join(f"{size}: {1e3 * seconds:.3f}" for size, seconds in measured.items())
    where = "on the event loop" if inline else "in a thread"
    logger.debug("%s/%d: ms by rows %s; up to %d at once, %s.", manifest.name, manifest.version, text, rows, where)
    sizes = session.warmed_sizes(rows) if largest > 1 else ()
    if len(sizes) > 1 and session.plans_for_one_shape and has_shape_switch_penalty(run, sizes):
        _keep_apart(session, run_all, sizes, f"{manifest.name}/{manifest.version}")
    else:
        run_all(sizes)
    return BatchPolicy(rows, settings.queue_capacity, inline, settings.max_batch_delay_ms / 1000, sizes)


def _keep_apart(session: Session, run_all: Callable[[Sequence[int]], None], sizes: Sequence[int], name: str) -> None:
    """Give each batch size a session of its own, and run it; if that fails, as without room, one session runs all."""
    try:
        session.keep_apart(sizes)
        run_all(sizes)
    except (BundleError, ProviderError, RunError) as error:
        reason = plain(error.__cause__ or error)
        text = "%s goes without a session for each batch size, and is slow where sizes change: %s"
        logger.warning(text, name, reason)
        session.keep_apart(())
        run_all(sizes)


def _zeros(spec: TensorSpec, manifest: Manifest) -> Array | None:
    shape = [1 if size == -1 else size for size in spec.shape[:1]] + list(spec.shape[1:])
    preprocessing = manifest.card.preprocessing
    if preprocessing is not None and len(manifest.inputs) == 1:
        shape[1:] = preprocessing.sample_shape
    if -1 in shape or spec.datatype == "BYTES":
        return None
    return np.zeros(shape, DTYPES[spec.datatype])

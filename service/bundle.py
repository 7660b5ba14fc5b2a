"""One bundle, NAME/VERSION/: what must be true of it before it may answer.

    read_bundle   manifest readable and about this folder; exactly the files that it lists, as they were written
    open_bundle   network opened, its inputs and outputs those of the manifest, run once

A bundle fails with one sentence, never with a traceback: it becomes the reason why that version is unavailable.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from contract.manifest import MANIFEST_NAME, MODEL_NAME, Manifest, TensorSpec, read_manifest, sha256_of
from service.batcher import Batcher
from service.engine import Model, Timeouts, row_bytes
from service.errors import BundleError
from service.jobs import BatchPolicy
from service.session import Session, open_session
from service.settings import Settings
from service.telemetry import ModelStats
from service.tensors import DTYPES, Array
from service.tuning import INLINE_S, LARGEST_BATCH, best_batch, measure_batches
from service.wire import fits
from service.workers import Workers

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
        BundleError: it is about another bundle, or contradicts itself, or a file is missing, changed, elsewhere or not
            listed.
    """
    _require_plain_file(folder / MANIFEST_NAME, repository)
    manifest = read_manifest(folder / MANIFEST_NAME)
    here = f"{folder.parent.name}/{folder.name}"
    if (about := f"{manifest.name}/{manifest.version}") != here:
        raise BundleError(f"The manifest is about {about!r}, but lies in {here!r}.")
    _check_facts(manifest)
    if MODEL_NAME not in manifest.files:
        raise BundleError(f"The manifest does not list {MODEL_NAME!r}.")
    for name, sha256 in manifest.files.items():
        _check_file(folder, name, sha256, repository)
    _refuse_unlisted(folder, manifest)
    return manifest


def open_bundle(
    folder: Path, manifest: Manifest, settings: Settings, threads: int, workers: Workers, stats: ModelStats
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
    arena = sum(row_bytes(manifest).values()) < _LARGE_ROW
    session = open_session(folder / MODEL_NAME, settings.provider, threads, arena)
    _compare("inputs", manifest.inputs, session.inputs, exact=True)
    _compare("outputs", manifest.outputs, session.outputs, exact=False)
    policy = _warm(manifest, session, settings)
    batcher = Batcher(session.run, policy, workers, stats.observe_run)
    timeouts = Timeouts(settings.timeout_s, settings.max_timeout_s)
    return Model(manifest, session, batcher, timeouts, stats, settings.max_answer_bytes)


def lies_within(path: Path, repository: Path) -> bool:
    """Return whether a path leads to a place in the repository, once symbolic links are followed.

    `realpath` goes as far as it can; `Path.resolve` raises on links that lead in a circle.
    """
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(repository))


def _check_facts(manifest: Manifest) -> None:
    """Refuse a manifest that contradicts itself."""
    if manifest.batchable and not all(spec.shape for spec in (*manifest.inputs, *manifest.outputs)):
        raise BundleError("The manifest says that rows are independent, but a value of it has no axis of rows.")
    outputs = {spec.name: spec for spec in manifest.outputs}
    for name in manifest.card.logits:
        if name not in outputs:
            raise BundleError(f"The manifest calls the output {name!r} logits, but there is no such output.")
        labels, shape = manifest.card.labels, outputs[name].shape
        if labels is not None and len(shape) == 2 and shape[1] not in (-1, len(labels)):
            raise BundleError(f"The manifest has {len(labels)} labels for {shape[1]} logits in the output {name!r}.")
    datatypes = [spec.datatype for spec in manifest.inputs]
    if manifest.takes_pixels and datatypes != ["UINT8"]:
        raise BundleError(f"The manifest says that the network takes pixels, but its inputs are {datatypes}.")
    preprocessing = manifest.card.preprocessing
    if preprocessing is not None and len(manifest.inputs) == 1:
        if not manifest.takes_pixels and datatypes[0] not in ("FP16", "FP32", "FP64"):
            raise BundleError(f"Preprocessing makes numbers with fractions, the network takes {datatypes[0]}.")
        shape, sample = manifest.inputs[0].shape, preprocessing.sample_shape
        if not fits(sample, shape[1:]):
            raise BundleError(f"Preprocessing makes samples of shape {list(sample)}, the network takes {list(shape)}.")


def _check_file(folder: Path, name: str, sha256: str, repository: Path) -> None:
    if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
        raise BundleError(f"The manifest lists {name!r}, which is not a plain file name.")
    path = folder / name
    _require_plain_file(path, repository)
    try:
        found = sha256_of(path)
    except OSError as error:
        raise BundleError(f"The file {name!r} cannot be read: {error.strerror}.") from None
    if found != sha256.lower():
        raise BundleError(f"The file {name!r} is not the one that was exported: its sha256 differs from the manifest.")


def _require_plain_file(path: Path, repository: Path) -> None:
    """Refuse, before it is opened, what is not a file of the repository: opening a pipe would wait for ever."""
    if not lies_within(path, repository):
        raise BundleError(f"{path.name!r} is a symbolic link that leaves the repository.")
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise BundleError(f"The file {path.name!r} cannot be read: {error.strerror}.") from None
    if not stat.S_ISREG(mode):
        raise BundleError(f"{path.name!r} is not a plain file.")


def _refuse_unlisted(folder: Path, manifest: Manifest) -> None:
    """Refuse what lies in the folder unchecked: ONNX Runtime reads weights from any file there that the model names."""
    try:
        found = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise BundleError(f"The folder cannot be read: {error.strerror}.") from None
    unlisted = sorted(found - manifest.files.keys() - {MANIFEST_NAME})
    if unlisted:
        raise BundleError(f"The folder holds {unlisted[0]!r}, which the manifest does not list.")


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
    within = max(1, settings.max_answer_bytes // max(1, sum(row_bytes(manifest).values())))
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

    measured = measure_batches(run, largest)
    rows = min(settings.max_batch_size, within) if settings.max_batch_size else best_batch(measured)
    longest = measured.get(rows, max(measured.values()) * rows / max(measured))
    inline = session.provider == "cpu" and longest <= INLINE_S
    text = ", ".join(f"{size}: {1e3 * seconds:.3f}" for size, seconds in measured.items())
    where = "on the event loop" if inline else "in a thread"
    logger.debug("%s/%d: ms by rows %s; up to %d at once, %s.", manifest.name, manifest.version, text, rows, where)
    return BatchPolicy(rows, settings.queue_capacity, inline, settings.max_batch_delay_ms / 1000)


def _zeros(spec: TensorSpec, manifest: Manifest) -> Array | None:
    shape = [1 if size == -1 else size for size in spec.shape[:1]] + list(spec.shape[1:])
    preprocessing = manifest.card.preprocessing
    if preprocessing is not None and len(manifest.inputs) == 1:
        shape[1:] = preprocessing.sample_shape
    if -1 in shape or spec.datatype == "BYTES":
        return None
    return np.zeros(shape, DTYPES[spec.datatype])

"""Load one bundle, NAME/VERSION/, with every check that it must pass.

    read_bundle   the manifest is readable and of this folder; the folder has exactly the files that it lists, unchanged
    open_bundle   the network opens, its inputs and outputs are those of the manifest, and it runs

A bundle that fails raises an error of one sentence, which becomes the reason why the version is unavailable.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from normfold.contract.bundle import check_files, read_own_manifest
from normfold.contract.drift.monitor import MONITOR_CARD_NAME, MONITOR_NAME, read_monitor
from normfold.contract.drift.samples import drift_folder
from normfold.contract.manifest import MODEL_NAME, Manifest, TensorSpec, class_axis
from normfold.contract.outputs.task import Regression
from normfold.contract.tables.preprocessing import TablePreprocessing
from normfold.service.batching.batcher import Batcher
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.codec.json_tensors import DTYPES
from normfold.service.codec.signature import shape_matches
from normfold.service.drift.monitor import DriftMonitor
from normfold.service.drift.process_files import ProcessFiles
from normfold.service.drift.sample_buffer import SampleBuffer
from normfold.service.drift.store import DriftStore
from normfold.service.errors import BundleLoadError
from normfold.service.observability.stats import ModelStats
from normfold.service.repository.int8_check import check_int8
from normfold.service.repository.loaded_model import Model, Timeouts, row_bytes
from normfold.service.repository.warmup import find_max_rows, warm_up
from normfold.service.runtime.cpu_limits import share_of_processors
from normfold.service.runtime.providers.session_request import as_text
from normfold.service.runtime.providers.table import CPU
from normfold.service.runtime.session import Session
from normfold.service.runtime.session_factory import open_session
from normfold.service.runtime.tuning.comparison import find_comparison
from normfold.service.runtime.tuning.graphs import add_graphs
from normfold.service.runtime.tuning.options import choose_options
from normfold.service.runtime.tuning.report import Tuning
from normfold.service.settings import Settings

logger = logging.getLogger(__name__)

_LARGE_ROW_BYTES = 2**20
"""The CPU's memory arena is off for networks whose rows have at least this many bytes of outputs.

The arena would keep the memory of the largest response.
"""


def read_bundle(folder: Path, repository: Path) -> Manifest:
    """Read a bundle's manifest, and check that its files are those of the folder.

    Args:
        folder: NAME/VERSION/.
        repository: all files must lie within it, after symbolic links are followed.

    Raises:
        ManifestError: the manifest cannot be read.
        DamagedBundleError: it is of another bundle, or a file is missing, changed, outside or not listed.
        BundleLoadError: the manifest contradicts itself.
    """
    manifest = read_own_manifest(folder, repository)
    _check_consistency(manifest)
    check_files(folder, manifest, repository)
    return manifest


def open_bundle(
    folder: Path, manifest: Manifest, settings: Settings, threads: int, thread_pool: ThreadPool, stats: ModelStats
) -> Model:
    """Open the network of a bundle whose files have been checked, run it, and measure how much it should run at once.

    Args:
        folder: NAME/VERSION/.
        manifest: the folder's.
        settings: the provider and the limits.
        threads: within one run.
        thread_pool: runs the network, and its drift monitor.
        stats: counts its runs.

    Raises:
        RuntimePackageError: no ONNX Runtime is installed, or two are.
        ProviderError: the requested provider does not work.
        BundleLoadError: the network does not open, is not the one that the manifest describes, or fails the check of an
            int8 network on this processor.
        RunError: the network fails on zeros.
    """
    session = open_session(
        folder / MODEL_NAME,
        settings.provider,
        threads,
        as_text(settings.provider_options),
        settings.device_id,
        settings.state_dir,
        arena=sum(row_bytes(manifest).values()) < _LARGE_ROW_BYTES,
        tf32=settings.tf32 == "on",
    )
    check_signature(manifest, session)
    comparison, tuning = find_comparison(session, manifest, settings), Tuning()
    if comparison is not None:
        session, tuning.options = choose_options(session, comparison, settings, find_max_rows(manifest, settings))
    fused_sqnr_db = check_int8(folder / MODEL_NAME, manifest, session, settings)
    policy = warm_up(manifest, session, settings)
    if comparison is not None:
        tuning.graphs = add_graphs(session, comparison, settings, policy.sizes or (1,))
        if tuning.describe():
            logger.info("%s/%d on %s: %s.", manifest.name, manifest.version, session.provider, tuning)
    if isinstance(manifest.card.preprocessing, TablePreprocessing):
        stats.begin_columns(manifest.card.preprocessing.names)
    batcher = Batcher(session.run, policy, thread_pool, stats.observe_run, stats.observe_queue_rejection)
    timeouts = Timeouts(settings.timeout_s, settings.max_timeout_s)
    drift_monitor = _open_drift_monitor(folder, manifest, settings, thread_pool)
    return Model(
        *(manifest, session, batcher, timeouts, stats, settings.max_response_bytes, drift_monitor, fused_sqnr_db),
        tuning=tuning,
        optional_inputs=_optional_inputs(session),
    )


def check_signature(manifest: Manifest, session: Session) -> None:
    """Check that the inputs and outputs of a network are those of its manifest.

    Raises:
        BundleLoadError: they are not.
    """
    _compare("inputs", manifest.inputs, session.inputs, exact=True)
    _compare("outputs", manifest.outputs, session.outputs, exact=False)


def _optional_inputs(session: Session) -> tuple[TensorSpec, ...]:
    """Return the inputs with a default that a request can give: those of the protocol's datatypes."""
    return tuple(
        TensorSpec(name=name, datatype=datatype, shape=shape)
        for name, (datatype, shape) in session.optional_inputs.items()
        if datatype in DTYPES
    )


def _open_drift_monitor(
    folder: Path, manifest: Manifest, settings: Settings, thread_pool: ThreadPool
) -> DriftMonitor | None:
    """Open the bundle's drift monitor, if it has one and it is on; on the CPU, whatever provider runs the network."""
    if not settings.drift_share or not {MONITOR_NAME, MONITOR_CARD_NAME} <= manifest.files.keys():
        return None
    monitor = read_monitor(folder / MONITOR_CARD_NAME)
    session = open_session(folder / MONITOR_NAME, CPU, intra_op_threads=1)
    outputs = {name for layer in monitor.layers for name in (layer.means, layer.squares)}
    if session.inputs.keys() != {spec.name for spec in manifest.inputs} or not outputs <= session.outputs.keys():
        raise BundleLoadError(f"{MONITOR_NAME!r} is not the graph that {MONITOR_CARD_NAME!r} describes.")
    store = samples = None
    if settings.state_dir is not None:
        files = ProcessFiles(drift_folder(settings.state_dir, manifest))
        store = DriftStore(files, monitor)
        samples = SampleBuffer(settings.keep_samples, files) if settings.keep_samples else None
    processors = share_of_processors(settings.workers)
    return DriftMonitor(monitor, session, thread_pool, settings.drift_share, processors, store, samples)


def _check_consistency(manifest: Manifest) -> None:
    """Reject a manifest that contradicts itself."""
    if manifest.batchable and not all(spec.shape for spec in (*manifest.inputs, *manifest.outputs)):
        raise BundleLoadError("The manifest says that rows are independent, but an input or output has no row axis.")
    outputs = {spec.name: spec for spec in manifest.outputs}
    for name in manifest.card.logits:
        if name not in outputs:
            raise BundleLoadError(f"The manifest calls the output {name!r} logits, but there is no such output.")
        labels, shape = manifest.card.labels, outputs[name].shape
        if labels is not None and len(shape) in (2, 4) and shape[class_axis(shape)] not in (-1, len(labels)):
            classes = shape[class_axis(shape)]
            raise BundleLoadError(f"The manifest has {len(labels)} labels for {classes} logits in the output {name!r}.")
    _check_task(manifest)
    datatypes = [spec.datatype for spec in manifest.inputs]
    if manifest.takes_pixels and datatypes != ["UINT8"]:
        raise BundleLoadError(f"The manifest says that the network takes pixels, but its inputs are {datatypes}.")
    preprocessing = manifest.card.preprocessing
    if preprocessing is not None and len(manifest.inputs) == 1:
        if not manifest.takes_pixels and datatypes[0] not in ("FP16", "FP32", "FP64"):
            raise BundleLoadError(f"Preprocessing makes numbers with fractions, the network takes {datatypes[0]}.")
        shape, sample = manifest.inputs[0].shape, preprocessing.sample_shape
        if not shape_matches(sample, shape[1:]):
            raise BundleLoadError(
                f"Preprocessing makes samples of shape {list(sample)}, the network takes {list(shape)}."
            )


def _check_task(manifest: Manifest) -> None:
    """Reject a manifest whose task is not that of an output."""
    task = manifest.card.task
    if task is None:
        return
    spec = next((spec for spec in manifest.outputs if spec.name == task.output), None)
    if spec is None:
        raise BundleLoadError(f"The manifest's task is of the output {task.output!r}, but there is no such output.")
    count = len(task.targets) if isinstance(task, Regression) else len(manifest.card.labels or ())
    if len(spec.shape) != 2 or spec.shape[1] not in (-1, count) or not count:
        kind = "values" if isinstance(task, Regression) else "labels"
        raise BundleLoadError(
            f"The manifest has {count} {kind}, and the output {spec.name!r} is of shape {list(spec.shape)}."
        )


def _compare(
    kind: str, stated: Sequence[TensorSpec], found: Mapping[str, tuple[str, tuple[int, ...]]], *, exact: bool
) -> None:
    """Compare a manifest's inputs or outputs with the network's.

    Sizes of outputs may be known to one of the two only: ONNX Runtime infers some, and gives () for an unknown rank.
    """
    if sorted(spec.name for spec in stated) != sorted(found):
        names = [spec.name for spec in stated]
        raise BundleLoadError(f"The manifest names the {kind} {names}, the network has {list(found)}.")
    for spec in stated:
        datatype, shape = found[spec.name]
        same = spec.shape == shape if exact else not shape or _compatible(spec.shape, shape)
        if spec.datatype != datatype or not same:
            raise BundleLoadError(
                f"The manifest says that {spec.name!r} is {spec.datatype} {list(spec.shape)}, "
                f"in the network it is {datatype} {list(shape)}."
            )


def _compatible(one: Sequence[int], other: Sequence[int]) -> bool:
    return len(one) == len(other) and all(-1 in pair or len(set(pair)) == 1 for pair in zip(one, other, strict=True))

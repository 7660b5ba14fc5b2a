"""The ONNX file and the source card of any source: the one way in which commands read what a user names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from normfold._shared.packages import require_packages
from normfold._shared.sources.bundle import BundlePlace, models_of
from normfold._shared.sources.network import network_to_onnx
from normfold._shared.sources.source import WEIGHTS_ENDINGS, Source, check_arguments
from normfold.contract.atomic_write import temporary_folder
from normfold.contract.errors import SetupError
from normfold.contract.manifest import MODEL_NAME, UNFOLDED_NAME, Manifest
from normfold.contract.progress import ProgressCallback
from normfold.contract.source_card import RunningStatistics, SourceCard, read_source_card
from normfold.errors import ArgumentError


@dataclass(frozen=True)
class Resolved:
    """The unfolded ONNX file of a source, and what is known of it.

    Attributes:
        path: of the file.
        card: its source card.
        kept_statistics: why the running statistics are those of training; None where they were recalibrated. It names
            an argument in back quotes.
    """

    path: Path
    card: SourceCard
    kept_statistics: str | None


def resolve(source: Source, folder: Path, progress: ProgressCallback) -> Resolved:
    """Return the unfolded ONNX file of a source, written to `folder` if need be, and its card.

    The statistics of a run folder are recalibrated over its training data, unless `keep_statistics` is set.

    Raises:
        ArgumentError: there is no such source, or an option that does not go with it.
        DamagedVersionError: it is a version that is not what was exported.
        SetupError: `folder` cannot be written.
        NormfoldError: it cannot be read or exported.
    """
    check_arguments(source)
    if source.is_onnx:
        path = Path(source.text)
        card = read_card(path, source.card)
        return Resolved(path, card, None if card.running_statistics else "an ONNX file has no training data")
    if (bundle := source.bundle) is not None:
        return _unfolded_of_bundle(source, bundle, progress)
    require_torch_source(source)
    require_packages("torch", "onnxscript", extra="train", needed_for="normfold export from a torch network")
    target = folder / "unfolded.onnx"
    record, kept = None, None
    try:
        if not source.is_run:
            progress("tracing the network")
            network_to_onnx(source, target)
            kept = f"{source.kind} has no training data"
        else:
            record, kept = _checkpoint_to_onnx(source, target, progress)
    except OSError as error:
        raise SetupError(
            f"The unfolded model cannot be written to {str(folder)!r}: {error.strerror or error}."
        ) from None
    card = read_source_card(source.card or target.with_suffix(".json"))
    return Resolved(target, card.model_copy(update={"running_statistics": record}), kept)


@contextmanager
def resolved(source: Source, progress: ProgressCallback) -> Iterator[Resolved]:
    """Give what `resolve` returns; a file that was written for it is removed at the end."""
    with temporary_folder() as folder:
        yield resolve(source, folder, progress)


def resolve_served(source: Source, folder: Path, progress: ProgressCallback) -> tuple[Path, Manifest | None]:
    """Return the ONNX file that a service runs: of a bundle `model.onnx`, with its manifest; otherwise as `resolve`."""
    bundle = source.bundle
    if bundle is None:
        return resolve(source, folder, progress).path, None
    check_arguments(source)
    place, manifest = bundle.read()
    return place / MODEL_NAME, manifest


def files_of(source: Source) -> list[Path]:
    """Return the files that a source is read from, as far as it names them."""
    if source.network is not None or source.is_factory:
        return [path for path in (source.weights,) if path is not None]
    if source.is_onnx:
        return [Path(source.text)]
    bundle = source.bundle
    return list(Path(source.text).glob("*") if bundle is None else (bundle.repository / bundle.name).glob("*/*"))


def _unfolded_of_bundle(source: Source, bundle: BundlePlace, progress: ProgressCallback) -> Resolved:
    progress(f"checking {bundle.name}")
    folder, manifest = bundle.read()
    if UNFOLDED_NAME not in manifest.files:
        raise ArgumentError(
            f"The bundle {source.text!r} was written without its unfolded model; normfold unfold restores that."
        )
    card = manifest.card if source.card is None else read_source_card(source.card)
    return Resolved(folder / UNFOLDED_NAME, card, None if card.running_statistics else "a bundle has no training data")


def _checkpoint_to_onnx(
    source: Source, target: Path, progress: ProgressCallback
) -> tuple[RunningStatistics | None, str | None]:
    """Write the network of a run folder; return the record of its recalibration, and why the statistics were kept."""
    from normfold.models.batchnorm.recalibrate_run import RecalibratedRun, recalibrate_run
    from normfold.models.onnx.to_onnx import OPSET, checkpoint_to_onnx
    from normfold.models.training.checkpoint import load_checkpoint

    folder = Path(source.text)
    if source.keep_statistics:
        network = RecalibratedRun(load_checkpoint(folder), None, "`keep_statistics`")
    else:
        network = recalibrate_run(folder, progress)
    progress("tracing the network")
    checkpoint_to_onnx(network.checkpoint, target, opset=source.opset or OPSET, dynamic_size=source.dynamic_size)
    return network.record, network.note


def require_torch_source(source: Source) -> None:
    """Make sure that what is taken as a run folder is one.

    Raises:
        ArgumentError: it is none; the sentence says what it is, or what it may be.
    """
    if not source.is_run:
        return
    path = Path(source.text)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError):  # for example a name that is too long for the file system
        is_folder = is_file = False
    if is_folder and (models := models_of(path)):
        raise ArgumentError(f"{source.text!r} is a repository; name one of its models, such as {str(models[0])!r}.")
    if is_file and path.suffix.lower() in WEIGHTS_ENDINGS:
        raise ArgumentError(
            f"{source.text!r} holds weights without a network; name module:factory, with `weights` {source.text}."
        )
    if not is_folder:
        raise ArgumentError(
            f"{source.text!r} is not a run folder, a bundle, an .onnx file or a module:factory; normfold train makes "
            "run folders, normfold export makes bundles."
        )


def read_card(model: Path, given: Path | None) -> SourceCard:
    """Return the card that is given, or else the one beside the model, or else an empty one.

    Raises:
        ManifestError: it cannot be read.
    """
    beside = model.with_suffix(".json")
    path = given or (beside if beside.is_file() else None)
    return read_source_card(path) if path else SourceCard()

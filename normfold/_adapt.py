"""`normfold.adapt`: statistics from samples without labels become a new version of a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from normfold._shared.argument_checks import (
    FLAG,
    NOT_NEGATIVE,
    PATH,
    TEXT,
    VERSION,
    check,
    check_as_tensors,
    check_optional,
)
from normfold._shared.packages import require_export
from normfold._shared.paths import AnyPath, optional_path
from normfold._shared.progress import Progress, progress_callback
from normfold._shared.results import unfolded_page, verification_sentence

if TYPE_CHECKING:
    from normfold.contract.manifest import Manifest
    from normfold.export.adapt.adapt import PendingAdaptation
    from normfold.export.adapt.recalibrate import RecalibratedLayer
    from normfold.export.bundle.export import ExportedBundle


@dataclass(frozen=True, repr=False, eq=False)
class AdaptResult:
    """A bundle whose statistics were recalibrated from samples.

    Attributes:
        adapted: the model with its new statistics, and the version that it comes from.
        exported: the new version; None as long as nothing is written.
    """

    adapted: PendingAdaptation
    exported: ExportedBundle | None = None

    @property
    def source(self) -> Manifest:
        """The manifest of the version that was adapted."""
        return self.adapted.manifest

    @property
    def layers(self) -> tuple[RecalibratedLayer, ...]:
        """Movement of the statistics of each BatchNormalization."""
        return self.adapted.recalibration.layers

    @property
    def samples_origin(self) -> str | None:
        """How many rows a service kept, and of which time, in one sentence; None for other samples."""
        return self.adapted.samples.origin

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.adapted.recalibration.samples

    @property
    def prior(self) -> float:
        """Weight of the statistics of training, as a number of samples."""
        return self.adapted.prior

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the samples, and the layers that keep their statistics, one sentence each."""
        return (*self.adapted.samples.warnings, *self.adapted.recalibration.unchanged)

    def require(self) -> None:
        """Raise if the samples do not justify new statistics.

        Raises:
            UnstableSamplesError: their first half differs from their second.
        """
        self.adapted.recalibration.require()

    def publish(self, *, inputs: AnyPath | None = None, progress: Progress = False) -> AdaptResult:
        """Fold the adapted model, verify the fold, and write it as the next version.

        Args:
            inputs: an .npz to verify with, one array for each input; random inputs without it.
            progress: True shows each step on standard error; a function is called with each step, in words.

        Raises:
            ArgumentError: an argument cannot be used.
            UnstableSamplesError: the first half of the samples differs from the second.
            VerificationError: the folded model differs; nothing was written.
            WriteError: the repository cannot be written.
        """
        check_optional(PATH, inputs=inputs)
        with progress_callback(progress) as progress:
            return replace(self, exported=self.adapted.publish(optional_path(inputs), progress))

    def __repr__(self) -> str:
        name = f"{self.source.name}/{self.source.version}"
        if self.exported is None:
            return f"AdaptResult({name!r}, {self.samples:,} samples, not written)"
        verified = verification_sentence(self.exported.verification)
        return f"AdaptResult({str(self.exported.path)!r} from {name!r}, {self.samples:,} samples. {verified})"

    def _repr_html_(self) -> str | None:
        """Return the page of the new version's fold for notebooks; None as long as nothing is written."""
        return None if self.exported is None else unfolded_page(self.exported.path, self.exported.verification)


def adapt(
    repository: AnyPath,
    name: str,
    samples: AnyPath,
    *,
    prior: float | None = None,
    version: int | None = None,
    as_tensors: bool | None = None,
    allow_partial: bool = False,
    inputs: AnyPath | None = None,
    dry_run: bool = False,
    progress: Progress = False,
) -> AdaptResult:
    """Recalibrate a bundle's BatchNormalization statistics from samples, fold again, and publish a new version::

        running_mean' = (prior * running_mean + n * mean) / (prior + n)

    The same holds for the variance, over n samples, layer by layer. For inputs that have drifted since training, for
    example another camera or other lighting. Needs no torch, no checkpoint and no labels. Needs at least 32 samples
    from one distribution, and 100 for drift thresholds.

    Source: Schneider et al. 2020, arXiv:2006.16971.

    Example:
        >>> import normfold
        >>> normfold.adapt("model_repository", "digits", "images/").exported.path
        PosixPath('model_repository/digits/2')

    Args:
        repository: folder of models.
        name: of the model.
        samples: unlabelled, in the order of recording: a folder of images, an .npz (raw inputs "x", or tensors named
            like the network's inputs), a .csv, or the state folder of a service that keeps inputs.
        prior: weight of the training statistics, as a number of samples; 16 without it.
        version: to adapt; the newest without it.
        as_tensors: whether an .npz holds tensors; derived from the names of its arrays without it.
        allow_partial: leave layers as they are whose statistics cannot be replaced or sampled, with a warning for each;
            without it such a layer is an error.
        inputs: an .npz to verify with, one array for each input; random inputs without it.
        dry_run: write nothing; `publish` of the result does.
        progress: True shows each step on standard error; a function is called with each step, in words.

    Raises:
        MissingPackageError, RuntimePackageError: the extra `export` or an ONNX Runtime is not installed.
        ArgumentError: an argument cannot be used.
        RepositoryError: there is no such model or version.
        DamagedVersionError: the version is not what was exported.
        NotAdaptableError: the version has no unfolded model, or one that cannot be adapted.
        SampleError, ModelInputError: the samples cannot be read.
        AdaptationError: the samples are too few, too many, identical, or their first half differs from their second.
        VerificationError: the folded model differs; nothing was written.
        Float16OverflowError, PrecisionLossError: the version is not float32, and its adaptation overflows or loses too
            much; nothing was written.
        WriteError: the repository cannot be written.
    """
    check(PATH, repository=repository, samples=samples)
    check(TEXT, name=name)
    check_optional(NOT_NEGATIVE, prior=prior)
    check_optional(VERSION, version=version)
    check_optional(FLAG, as_tensors=as_tensors)
    check_as_tensors(as_tensors, samples)
    check_optional(PATH, inputs=inputs)
    check(FLAG, allow_partial=allow_partial, dry_run=dry_run)
    require_export("normfold adapt")
    from normfold.contract.manifest import DEFAULT_PRIOR
    from normfold.export.adapt.adapt import adapt as recalibrate_bundle

    weight = DEFAULT_PRIOR if prior is None else prior
    with progress_callback(progress) as progress:
        found = recalibrate_bundle(
            Path(repository), name, Path(samples), weight, version, as_tensors, allow_partial, progress
        )
    result = AdaptResult(found)
    return result if dry_run else result.publish(inputs=inputs, progress=progress)

"""Adapt a bundle to inputs that have changed: recalibrate its statistics from samples, fold, verify, publish.

The bundle alone is enough: no torch, no checkpoint, no labels. What training left stays in the new version too, so that
adapting it again starts from there: the result depends on the samples and not on earlier adaptations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from normfold.contract.atomic_write import temporary_folder
from normfold.contract.drift.monitor import MONITOR_NAME
from normfold.contract.drift.samples import DRIFT_FOLDER
from normfold.contract.manifest import (
    DEFAULT_PRIOR,
    REFERENCE_NAME,
    STATISTICS_NAME,
    UNFOLDED_NAME,
    Adaptation,
    Manifest,
)
from normfold.contract.precision.record import PrecisionKind
from normfold.contract.progress import ProgressCallback, ignore_progress
from normfold.export.adapt.read_samples import read_kept_samples, read_samples
from normfold.export.adapt.recalibrate import Recalibration, recalibrate
from normfold.export.adapt.samples import SampleFormat, Samples, as_pixels, require_usable
from normfold.export.adapt.split_samples import MAX_CALIBRATION_ROWS, split_samples
from normfold.export.bundle.evenly_spaced import evenly_spaced
from normfold.export.bundle.export import AdaptationOrigin, ExportedBundle, export_bundle
from normfold.export.bundle.statistics import TRAINED_NAME, read_merging, read_trained
from normfold.export.errors import NotAdaptableError
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.quantize.lower_precision import LowerPrecision
from normfold.export.quantize.record_ranges import RecordRanges
from normfold.export.repository.versions import check_version, find_model
from normfold.export.verify.runner import Inputs, input_infos

MAX_CALIBRATION_SAMPLES = 500
"""Samples that the thresholds of the drift monitor are taken from."""


@dataclass(frozen=True, eq=False)
class PendingAdaptation:
    """A bundle's model with new statistics, not yet written."""

    repository: Path
    manifest: Manifest
    """Of the version that was adapted."""
    model: ir.Model
    recalibration: Recalibration
    samples: Samples
    prior: float
    merging: bool

    def publish(self, inputs: Path | None = None, progress: ProgressCallback = ignore_progress) -> ExportedBundle:
        """Fold the model, verify the fold, and write it as the next version; nothing is written if a check says no.

        Args:
            inputs: an .npz file to verify with; random inputs without it.
            progress: called with each step as it begins.

        Raises:
            UnstableSamplesError: the samples' first half is not like their second.
            VerificationError: the folded model differs.
            Float16OverflowError, PrecisionLossError: the version is not float32, and cannot be made so again.
            WriteError: the repository cannot be written.
        """
        self.recalibration.require()
        record = Adaptation(from_version=self.manifest.version, samples=self.recalibration.samples, prior=self.prior)
        with temporary_folder() as folder:
            source = folder / UNFOLDED_NAME
            save_model(self.model, source)
            return export_bundle(
                source,
                self.repository,
                self.manifest.name,
                card=self.manifest.card,
                merging=self.merging,
                inputs=inputs,
                takes_pixels=self.manifest.takes_pixels,
                monitoring=MONITOR_NAME in self.manifest.files,
                calibration=self._rows(MAX_CALIBRATION_SAMPLES),
                adapted=AdaptationOrigin(record, self.recalibration.trained),
                convert=self._conversion(),
                keep_reference=REFERENCE_NAME in self.manifest.files,
                record=RecordRanges(self._rows(MAX_CALIBRATION_ROWS)),
                progress=progress,
            )

    def _conversion(self) -> LowerPrecision | None:
        """Return the conversion by the recipe of the version that was adapted; None where that is float32.

        The samples take the place of the data that ranges came from, recorded or not: with other statistics the values
        have other ranges. Whether int8 is faster was found before.
        """
        precision = self.manifest.precision
        if precision is None:
            return None
        recipe = precision.recipe
        if recipe.ranges_from == "recorded":
            recipe = recipe.model_copy(update={"ranges_from": "samples"})
        found = split_samples(self._served_samples(), recipe.ranges_from == "samples")
        return LowerPrecision(
            PrecisionKind(precision.kind), recipe, found.calibration, found.rows, must_be_faster=False
        )

    def _served_samples(self) -> Samples:
        """Return the samples as the served network takes them."""
        takes_pixels, preprocessing = self.manifest.takes_pixels, self.manifest.card.preprocessing
        return as_pixels(self.samples, preprocessing) if takes_pixels else self.samples

    def _rows(self, limit: int) -> Inputs:
        """Return up to `limit` samples, evenly spaced over all, as the served network takes them."""
        samples = self._served_samples()
        parts = [samples.read(place, place + 1) for place in evenly_spaced(samples.count, limit)]
        return {name: np.concatenate([each[name] for each in parts]) for name in parts[0]}


def adapt(
    repository: Path,
    name: str,
    samples: Path,
    prior: float = DEFAULT_PRIOR,
    version: int | None = None,
    as_tensors: bool | None = None,
    allow_partial: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> PendingAdaptation:
    """Recalibrate the statistics of a bundle from samples; `publish` writes the result.

    Args:
        repository: the folder of models.
        name: of the model.
        samples: a folder of pictures, an .npz or .csv file, or a service's state folder (`export.adapt.read_samples`);
            in the order in which they came.
        prior: for how many samples the statistics of training count.
        version: to adapt; None for the newest.
        as_tensors: whether an .npz holds tensors; None to decide by the names of its arrays.
        allow_partial: leave layers as they are whose statistics cannot be replaced or sampled.
        progress: called with each step as it begins.

    Raises:
        RepositoryError: there is no such model or version.
        DamagedVersionError: the version is not what was exported.
        NotAdaptableError: the version has no unfolded model, or one that cannot be adapted.
        SampleError, ModelInputError: the samples cannot be read.
        SampleCountError: they are too few, or too many.
        IdenticalSamplesError: they are all the same.
        SampleStatisticsError: what they give is not finite.
    """
    model = find_model(repository, name)
    folder = model.version(max(model.versions, default=1) if version is None else version).folder
    progress(f"checking {name}/{folder.name}")
    manifest = check_version(folder, repository)
    if UNFOLDED_NAME not in manifest.files:
        raise NotAdaptableError(
            f"Version {manifest.version} of {name!r} was exported without its unfolded model (`keep_source`), and "
            "cannot be adapted; export it again with it."
        )
    progress("reading the samples")
    unfolded = load_model(folder / UNFOLDED_NAME)
    expected = SampleFormat(
        input_infos(folder / UNFOLDED_NAME, unfolded), manifest.card.preprocessing, manifest.takes_pixels
    )
    is_state = (samples / DRIFT_FOLDER).is_dir()
    given = read_kept_samples(samples, manifest, expected) if is_state else read_samples(samples, expected, as_tensors)
    require_usable(given)
    trained = read_trained(folder / TRAINED_NAME) if TRAINED_NAME in manifest.files else None
    found = recalibrate(unfolded, given, prior, trained, manifest.batchable, allow_partial, progress=progress)
    merging = STATISTICS_NAME not in manifest.files or read_merging(folder / STATISTICS_NAME)
    return PendingAdaptation(repository, manifest, unfolded, found, given, prior, merging)

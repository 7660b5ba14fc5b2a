"""A bundle put right where its inputs have changed: statistics re-estimated from samples, folded, proven, published.

The bundle alone is enough: no torch, no checkpoint, no labels. What training left stays in the new version too, so that
adapting it again starts from there: the result depends on the samples and not on earlier adaptations.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from normfold.contract.manifest import PRIOR, STATISTICS_NAME, UNFOLDED_NAME, Adaptation, Manifest
from normfold.contract.monitor import MONITOR_NAME
from normfold.contract.samples import DRIFT_FOLDER
from normfold.export.adapt.recalibrate import Reestimation, reestimate
from normfold.export.adapt.samples import Samples, Taker, read_kept_samples, read_samples
from normfold.export.bundle.evenly_spaced import spread
from normfold.export.bundle.export import Adapted, Exported, export_bundle
from normfold.export.bundle.statistics import TRAINED_NAME, read_merging, read_trained
from normfold.export.errors import AlikeSamplesError, NotAdaptableError, SampleCountError
from normfold.export.graph.pixels import Pixels, from_pixels
from normfold.export.onnx_io.atomic_write import translated_os_errors
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.progress import Say, silent
from normfold.export.repository.versions import check_version, find_model
from normfold.export.verify.runner import Feeds, input_ports

FEWEST_SAMPLES = 32
"""Two halves of 16 to compare. A channel's mean is then known to 1/√32 = 0.18 of its standard deviation at worst."""

MOST_SAMPLES = 20_000
"""1/√20000 = 0.007 of a standard deviation: more would cost time and memory, and change nothing."""

MOST_NORMAL = 500
"""Samples that the thresholds of watching are taken from."""


@dataclass(frozen=True, eq=False)
class Adapting:
    """A bundle's model with new statistics, not yet written."""

    repository: Path
    manifest: Manifest
    """Of the version that was adapted."""
    model: ir.Model
    reestimation: Reestimation
    samples: Samples
    prior: float
    merging: bool

    def publish(self, inputs: Path | None = None, say: Say = silent) -> Exported:
        """Fold the model, prove the fold, and write it as the next version; nothing is written if a check says no.

        Args:
            inputs: an .npz file to verify with; random inputs without it.
            say: called with what is being done, in words.

        Raises:
            MovingSamplesError: the samples' first half is not like their second.
            VerificationError: the folded model differs.
            WriteError: the repository cannot be written.
        """
        self.reestimation.require()
        record = Adaptation(from_version=self.manifest.version, samples=self.reestimation.samples, prior=self.prior)
        temporary = Path(tempfile.gettempdir())
        with translated_os_errors(temporary), tempfile.TemporaryDirectory(prefix="normfold-") as folder:
            source = Path(folder, UNFOLDED_NAME)
            save_model(self.model, source)
            return export_bundle(
                source,
                self.repository,
                self.manifest.name,
                card=self.manifest.card,
                merging=self.merging,
                inputs=inputs,
                takes_pixels=self.manifest.takes_pixels,
                watch=MONITOR_NAME in self.manifest.files,
                held_out=self._normal(),
                adapted=Adapted(record, self.reestimation.trained),
                say=say,
            )

    def _normal(self) -> Feeds:
        """Return some of the samples, spread over all, as the served network takes them: what is normal from now on."""
        places = spread(self.samples.count, MOST_NORMAL)
        feeds = [self.samples.read(place, place + 1) for place in places]
        joined = {name: np.concatenate([each[name] for each in feeds]) for name in feeds[0]}
        if not self.manifest.takes_pixels:
            return joined
        pixels = Pixels.of(from_pixels(self.manifest.card.preprocessing).preprocessing)
        return {name: pixels.pixels_of(tensor) for name, tensor in joined.items()}


def adapt(
    repository: Path,
    name: str,
    samples: Path,
    prior: float = PRIOR,
    version: int | None = None,
    as_tensors: bool | None = None,
    say: Say = silent,
) -> Adapting:
    """Re-estimate the statistics of a bundle from samples; `publish` writes the result.

    Args:
        repository: the folder of models.
        name: of the model.
        samples: a folder of pictures, an .npz or .csv file, or a service's state folder (`export.adapt.samples`); in
            the
            order in which they came.
        prior: for how many samples the statistics of training count.
        version: to adapt; None for the newest.
        as_tensors: whether an .npz holds tensors; None to tell by the names of its arrays.
        say: called with what is being done, in words.

    Raises:
        RepositoryError: there is no such model or version.
        DamagedVersionError: the version is not what was exported.
        NotAdaptableError: the version has no unfolded model, or one that cannot be adapted.
        SampleError, FeedError: the samples cannot be read.
        SampleCountError: they are too few, or too many.
        AlikeSamplesError: they are all the same.
        SampleStatisticsError: what they give is not finite.
    """
    model = find_model(repository, name)
    folder = model.version(max(model.versions, default=1) if version is None else version).folder
    say(f"checking {name}/{folder.name}")
    manifest = check_version(folder, repository)
    if UNFOLDED_NAME not in manifest.files:
        raise NotAdaptableError(
            f"Version {manifest.version} of {name!r} was exported without its unfolded model (--no-source), and cannot "
            "be adapted; export it again with it."
        )
    say("reading the samples")
    unfolded = load_model(folder / UNFOLDED_NAME)
    taker = Taker(input_ports(folder / UNFOLDED_NAME, unfolded), manifest.card.preprocessing, manifest.takes_pixels)
    is_state = (samples / DRIFT_FOLDER).is_dir()
    given = read_kept_samples(samples, manifest, taker) if is_state else read_samples(samples, taker, as_tensors)
    _check_count(given.count)
    _check_varied(given)
    trained = read_trained(folder / TRAINED_NAME) if TRAINED_NAME in manifest.files else None
    found = reestimate(unfolded, given, prior, trained, manifest.batchable, say)
    merging = STATISTICS_NAME not in manifest.files or read_merging(folder / STATISTICS_NAME)
    return Adapting(repository, manifest, unfolded, found, given, prior, merging)


def _check_count(count: int) -> None:
    if count < FEWEST_SAMPLES:
        raise SampleCountError(
            count,
            f"are too few: at least {FEWEST_SAMPLES} are needed, so that their two halves can be compared and a "
            "channel's mean is known to a fifth of its standard deviation",
        )
    if count > MOST_SAMPLES:
        raise SampleCountError(count, f"are more than the {MOST_SAMPLES:,} that can help; give a part of them")


def _check_varied(samples: Samples) -> None:
    first = samples.read(0, 1)
    for place in range(1, samples.count):
        other = samples.read(place, place + 1)
        if any(not np.array_equal(other[name], tensor) for name, tensor in first.items()):
            return
    raise AlikeSamplesError(samples.count)

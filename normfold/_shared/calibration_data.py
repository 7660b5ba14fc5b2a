"""Rows of a run folder's data: for drift thresholds, for ranges of int8, and to compare a lower precision on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normfold._shared.source import Source
from normfold.contract.preprocess import ImagePreprocessing

if TYPE_CHECKING:
    from normfold.models.data.data import Dataset

_INPUT = "input"
"""Name of the input of a network that was trained here."""


@dataclass(frozen=True, eq=False)
class RunData:
    """The data that a run was trained on; rows are given as the served network takes them, by input.

    Attributes:
        dataset: with its splits.
        takes_pixels: the served network takes pixels.
    """

    dataset: Dataset
    takes_pixels: bool

    def validation_rows(self) -> dict[str, Any]:
        """Return rows of the validation split, evenly spaced, that drift thresholds come from."""
        from normfold.export.bundle.calibrate import MAX_ROWS

        return self._inputs(_spread(self.dataset.splits.validation, MAX_ROWS))

    def training_rows(self) -> dict[str, Any] | None:
        """Return rows of the training split, evenly spaced, that ranges come from; None where these are too few."""
        from normfold.export.adapt.samples import MIN_SAMPLES
        from normfold.export.adapt.split_samples import MAX_CALIBRATION_ROWS

        train = self.dataset.splits.train
        return self._inputs(_spread(train, MAX_CALIBRATION_ROWS)) if len(train) >= MIN_SAMPLES else None

    def compared_rows(self) -> tuple[dict[str, Any], Any]:
        """Return rows of the other splits, evenly spaced, that two networks are compared on, and their classes.

        In masks, IGNORED stands for pixels without a class.
        """
        from normfold.export.adapt.split_samples import MAX_PROOF_ROWS

        others = np.sort(np.concatenate([self.dataset.splits.validation, self.dataset.splits.test]))
        rows = _spread(others, MAX_PROOF_ROWS)
        return self._inputs(rows), self.dataset.y[rows]

    def _inputs(self, rows: Any) -> dict[str, Any]:
        dataset = self.dataset
        if self.takes_pixels and isinstance(dataset.preprocessing, ImagePreprocessing):
            return {_INPUT: dataset.preprocessing.to_pixels(dataset.x[rows])}
        return {_INPUT: dataset.tensors(rows)}


def run_data(source: Source, takes_pixels: bool) -> RunData | None:
    """Return the data of a run folder; None if the source is something else, or its data are gone or have changed."""
    if not source.is_run:
        return None
    from normfold.models.batchnorm.recalibrate_run import load_training_data
    from normfold.models.errors import DataError
    from normfold.models.training.checkpoint import load_config

    try:
        return RunData(load_training_data(load_config(Path(source.text))), takes_pixels)
    except DataError:
        return None


def _spread(places: Any, limit: int) -> Any:
    """Return some places, evenly spaced: they are ascending, and images of a folder lie class by class."""
    from normfold.export.bundle.evenly_spaced import evenly_spaced

    return places[evenly_spaced(len(places), limit)]

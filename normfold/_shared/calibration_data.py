"""Rows of a run folder's data: for drift thresholds, for ranges of int8, and to compare a lower precision on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from normfold._shared.sources.source import Source
from normfold.contract.preprocess import ImagePreprocessing

if TYPE_CHECKING:
    from normfold.models.data.data import Dataset

_INPUT = "input"
"""Name of the input of a network that was trained here."""


class ThresholdRows(NamedTuple):
    """Rows that drift thresholds come from.

    Attributes:
        inputs: as the served network takes them, by input.
        origin: the splits that they are of, in words.
    """

    inputs: dict[str, Any]
    origin: str


@dataclass(frozen=True, eq=False)
class RunData:
    """The data that a run was trained on; rows are given as the served network takes them, by input.

    Attributes:
        dataset: with its splits.
        takes_pixels: the served network takes pixels.
    """

    dataset: Dataset
    takes_pixels: bool

    def threshold_rows(self) -> ThresholdRows:
        """Return the rows that drift thresholds come from, evenly spaced in each split.

        They are the validation split. Where it has fewer than `MIN_ROWS` rows, the test split is added, which the
        network was not trained on either; and where both have fewer, as many training rows as are missing. To these the
        network is fitted, so that they alone would give thresholds that are too low. Beside held-out rows they do not:
        `docs/explanation/drift.md` has the measurement.
        """
        from normfold.export.bundle.calibrate import MAX_ROWS, MIN_ROWS

        splits = self.dataset.splits
        rows, names = _spread(splits.validation, MAX_ROWS), ["validation"]
        for name, more, limit in (("test", splits.test, MAX_ROWS), ("training", splits.train, MIN_ROWS)):
            if len(rows) < MIN_ROWS:
                rows = np.concatenate([rows, _spread(more, limit - len(rows))])
                names.append(name)
        return ThresholdRows(self._inputs(np.sort(rows)), _rows_of(names))

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


def _rows_of(splits: Sequence[str]) -> str:
    """Return, for example, "rows of the validation and test splits"."""
    if len(splits) == 1:
        return f"rows of the {splits[0]} split"
    return f"rows of the {', '.join(splits[:-1])} and {splits[-1]} splits"


def _spread(places: Any, limit: int) -> Any:
    """Return some places, evenly spaced: they are ascending, and images of a folder lie class by class."""
    from normfold.export.bundle.evenly_spaced import evenly_spaced

    return places[evenly_spaced(len(places), limit)]

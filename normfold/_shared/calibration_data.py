"""Rows of a run folder's data: for drift thresholds, and for a network of lower precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normfold._shared.source import Source
from normfold.contract.preprocess import ImagePreprocessing

if TYPE_CHECKING:
    from normfold.models.data.data import Dataset

_INPUT = "input"
"""Name of the input of a network that was trained here."""


def validation_rows(source: Source, takes_pixels: bool) -> dict[str, Any] | None:
    """Return rows of a run's validation split, evenly spaced, as the served network takes them, by input.

    Returns:
        None if the source is not a run folder or its data are gone: then there are no thresholds.
    """
    from normfold.export.bundle.calibrate import MAX_ROWS
    from normfold.export.bundle.evenly_spaced import evenly_spaced

    dataset = _load_dataset(source)
    if dataset is None:
        return None
    validation = dataset.splits.validation  # ascending, and images of a folder lie class by class
    return _inputs(dataset, validation[evenly_spaced(len(validation), MAX_ROWS)], takes_pixels)


@dataclass(frozen=True, eq=False)
class PrecisionRows:
    """Rows of a run's data, as the served network takes them, by input.

    Attributes:
        calibration: of the training split, to take ranges of activations from.
        rows: of the other splits, to compare two networks on.
        labels: the classes of `rows`.
    """

    calibration: dict[str, Any]
    rows: dict[str, Any]
    labels: Any


def precision_rows(source: Source, takes_pixels: bool) -> PrecisionRows | None:
    """Return rows of a run's data, evenly spaced; None if the source is not a run folder or its data are gone."""
    import numpy as np

    from normfold.export.adapt.split_samples import MAX_CALIBRATION_ROWS, MAX_PROOF_ROWS
    from normfold.export.bundle.evenly_spaced import evenly_spaced

    dataset = _load_dataset(source)
    if dataset is None:
        return None
    train = dataset.splits.train
    others = np.sort(np.concatenate([dataset.splits.validation, dataset.splits.test]))
    compared = others[evenly_spaced(len(others), MAX_PROOF_ROWS)]
    calibration = train[evenly_spaced(len(train), MAX_CALIBRATION_ROWS)]
    return PrecisionRows(
        _inputs(dataset, calibration, takes_pixels), _inputs(dataset, compared, takes_pixels), dataset.y[compared]
    )


def _load_dataset(source: Source) -> Dataset | None:
    """Return the data of a run folder; None if the source is something else, or its data are gone."""
    if not source.is_run:
        return None
    from normfold.models.data.data import load_dataset
    from normfold.models.errors import DataError
    from normfold.models.training.checkpoint import load_config

    config = load_config(Path(source.text))
    if config.data is None:
        return None
    try:
        return load_dataset(config.data)
    except DataError:
        return None


def _inputs(dataset: Dataset, rows: Any, takes_pixels: bool) -> dict[str, Any]:
    if takes_pixels and isinstance(dataset.preprocessing, ImagePreprocessing):
        return {_INPUT: dataset.preprocessing.to_pixels(dataset.x[rows])}
    return {_INPUT: dataset.tensors(rows)}

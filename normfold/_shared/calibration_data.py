"""Calibration rows of a run folder: the validation data of a network, which the drift thresholds are taken from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from normfold._shared.source import Source
from normfold.contract.preprocess import ImagePreprocessing

_INPUT = "input"
"""Name of the input of a network that was trained here."""


def validation_rows(source: Source, takes_pixels: bool) -> dict[str, Any] | None:
    """Return rows of a run's validation split, evenly spaced, as the served network takes them, by input.

    Returns:
        None if the source is not a run folder or its data are gone: then there are no thresholds.
    """
    if not source.is_run:
        return None
    from normfold.export.bundle.calibrate import MAX_ROWS
    from normfold.export.bundle.evenly_spaced import evenly_spaced
    from normfold.models.data.data import load_dataset
    from normfold.models.errors import DataError
    from normfold.models.training.checkpoint import load_config

    config = load_config(Path(source.text))
    if config.data is None:
        return None
    try:
        dataset = load_dataset(config.data)
    except DataError:
        return None
    validation = dataset.splits.validation  # ascending, and images of a folder lie class by class
    rows = validation[evenly_spaced(len(validation), MAX_ROWS)]
    if takes_pixels and isinstance(dataset.preprocessing, ImagePreprocessing):
        return {_INPUT: dataset.preprocessing.to_pixels(dataset.x[rows])}
    return {_INPUT: dataset.tensors(rows)}

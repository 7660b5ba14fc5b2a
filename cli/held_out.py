"""Held-out rows of what a network was trained on: what watching takes for normal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cli.source import Source
from contract.preprocess import ImagePreprocessing

MOST_ROWS = 2000
"""More would make an export longer, and a threshold hardly better."""

_INPUT = "input"
"""Name of the input of a network that was trained here."""


def validation_rows(source: Source, takes_pixels: bool) -> dict[str, Any] | None:
    """Return the validation split of a run's data, as the served network takes it, by input.

    Returns:
        None for what is no run folder, or where its data are gone: then nobody can say what is normal.
    """
    if source.is_onnx or source.is_factory:
        return None
    from models.checkpoint import load_config
    from models.data import load_dataset
    from models.errors import DataError

    config = load_config(Path(source.text))
    if config.data is None:
        return None
    try:
        dataset = load_dataset(config.data)
    except DataError:
        return None
    rows = dataset.splits.validation[:MOST_ROWS]
    if takes_pixels and isinstance(dataset.preprocessing, ImagePreprocessing):
        return {_INPUT: dataset.preprocessing.to_pixels(dataset.x[rows])}
    return {_INPUT: dataset.tensors(rows)}

"""The range of an input, from the card of the network."""

from __future__ import annotations

from normfold.contract.preprocess import ImagePreprocessing, Preprocessing


def input_range(preprocessing: Preprocessing | None) -> tuple[float, float] | None:
    """Return least and greatest of a network's input: those of standardised pictures, from black to full intensity.

    Returns:
        None where the card names no bounds: columns and channels of measurements have none.
    """
    if not isinstance(preprocessing, ImagePreprocessing):
        return None
    channels = list(zip(preprocessing.mean, preprocessing.std, strict=True))
    return min((0 - mean) / std for mean, std in channels), max((1 - mean) / std for mean, std in channels)

"""The range of a network's input, as far as its card says it."""

from __future__ import annotations

import numpy as np

from normfold.contract.preprocess import ImagePreprocessing
from normfold.contract.source_card import SourceCard

PIXEL_RANGE = (0.0, 255.0)


def input_range(card: SourceCard, takes_pixels: bool) -> tuple[float, float] | None:
    """Return the lowest and the highest value of the one input; None where nothing bounds it, as for rows of a table.

    Args:
        card: of the network.
        takes_pixels: the input is 8-bit pixels.
    """
    if takes_pixels:
        return PIXEL_RANGE
    preprocessing = card.preprocessing
    if not isinstance(preprocessing, ImagePreprocessing):
        return None
    limits = [
        preprocessing.standardise(np.full((preprocessing.channels, 1, 1), value, np.float32))
        for value in (0.0, preprocessing.value_max)
    ]
    return float(limits[0].min()), float(limits[1].max())

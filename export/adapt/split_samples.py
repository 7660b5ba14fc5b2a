"""Samples for a network of lower precision: some to take ranges from, the others to compare it with float32 on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from normfold.export.adapt.samples import Samples
from normfold.export.bundle.evenly_spaced import evenly_spaced
from normfold.export.verify.runner import Inputs

MAX_CALIBRATION_ROWS = 200
"""More samples were found to gain nothing."""

MAX_PROOF_ROWS = 1000
MAX_PROOF_BYTES = 2**28
"""Of the rows that two networks are compared on, which are in memory at once."""


@dataclass(frozen=True, eq=False)
class SplitSamples:
    """Samples, as the folded network takes them.

    Attributes:
        calibration: to take ranges from; None where all are compared.
        rows: to compare both networks on.
        places: of `rows` among the samples.
    """

    calibration: Inputs | None
    rows: Inputs
    places: list[int]


def split_samples(samples: Samples, calibrates: bool) -> SplitSamples:
    """Split samples: every second one calibrates, the others are compared; so neither is all of one time or class.

    Args:
        samples: as the folded network takes them.
        calibrates: whether ranges are taken from samples.
    """
    first = samples.read(0, 1)
    row_bytes = max(1, sum(array.nbytes for array in first.values()))
    limit = max(1, min(MAX_PROOF_ROWS, MAX_PROOF_BYTES // row_bytes))
    everything = range(samples.count)
    compared = everything[1::2] if calibrates else everything
    places = [compared[place] for place in evenly_spaced(len(compared), limit)]
    calibrating = everything[::2] if calibrates else everything[:0]
    chosen = [calibrating[place] for place in evenly_spaced(len(calibrating), min(MAX_CALIBRATION_ROWS, limit))]
    return SplitSamples(_read(samples, chosen) if chosen else None, _read(samples, places), places)


def _read(samples: Samples, places: Sequence[int]) -> Inputs:
    parts = [samples.read(place, place + 1) for place in places]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

"""A folded float32 network with what is known of it: what a conversion to another precision starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from normfold.contract.precision.record import Precision
from normfold.contract.progress import ProgressCallback
from normfold.contract.source_card import SourceCard
from normfold.export.bundle.recorded_ranges import RecordedRanges
from normfold.export.bundle.statistics import StoredBatchNorm


@dataclass(frozen=True, eq=False)
class FoldedNetwork:
    """A folded float32 network.

    Attributes:
        path: of its file.
        shown_as: the file that messages name instead, which the user knows.
        unfolded: the same network with its BatchNormalization nodes; None where it is not there.
        statistics: of those nodes, in graph order.
        card: of the network.
        takes_pixels: its input is 8-bit pixels; that of `unfolded` is not.
        batchable: rows are independent.
        recorded: ranges of its values on data; None where none were there.
    """

    path: Path
    shown_as: Path
    unfolded: Path | None
    statistics: Sequence[StoredBatchNorm]
    card: SourceCard
    takes_pixels: bool = False
    batchable: bool = True
    recorded: RecordedRanges | None = None


Conversion = Callable[[FoldedNetwork, Path, ProgressCallback], Precision]
"""Writes the network in another precision to a path, and returns its record."""

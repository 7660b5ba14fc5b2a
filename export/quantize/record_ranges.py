"""Record the ranges of a folded network's values on data, so that it can be quantised when these are gone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from normfold.export.bundle.recorded_ranges import RecordedRange, RecordedRanges
from normfold.export.quantize.int8.prepare import prepare
from normfold.export.quantize.int8.ranges.channel_ranges import ChannelRange
from normfold.export.quantize.int8.ranges.from_samples import ranges_from_samples
from normfold.export.verify.runner import Inputs, input_infos


@dataclass(frozen=True, eq=False)
class RecordRanges:
    """Runs a folded network on rows: a `bundle.recorded_ranges.RangeRecorder`.

    The ranges are those that int8 would take from the same rows as samples.

    Attributes:
        rows: by input, as the folded network takes them.
    """

    rows: Inputs

    def __call__(self, folded: Path) -> RecordedRanges | None:
        """Return the ranges; None where the network cannot be quantised, or does not hold the rows finite.

        An export does not fail for that: the network may never be quantised, and `quantize` gives the reason.
        """
        try:
            model = prepare(folded)
            found = ranges_from_samples(model, self.rows, input_infos(folded, model))
        except Exception:  # noqa: BLE001 -- ONNX Runtime raises many kinds
            return None
        rows = min(len(array) for array in self.rows.values())
        return RecordedRanges(rows, {name: RecordedRange(one.low, one.high, one.mean) for name, one in found.items()})


def as_channel_ranges(recorded: RecordedRanges) -> dict[str, ChannelRange]:
    """Return recorded ranges as those that a quantisation takes."""
    return {name: ChannelRange(one.low, one.high, one.mean) for name, one in recorded.values.items()}

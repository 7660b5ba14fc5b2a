"""Ranges of a folded network's values on data, recorded in `statistics.safetensors` while these data were there.

Tensors, for each float32 VALUE of the folded network, of shape (C,), C the size of axis 1, or 1 below rank 2:

    VALUE.low  VALUE.high    float32, the least and the greatest
    VALUE.mean               float64

Metadata: `recorded_ranges`, a JSON object of {rows, values}: the number of rows that were run, and the names of the
values. Bundles without data, and older ones, have none of these.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

from normfold.export.arrays import Array, Tensor

_METADATA = "recorded_ranges"
_DTYPES = {"low": np.float32, "high": np.float32, "mean": np.float64}


@dataclass(frozen=True, eq=False)
class RecordedRange:
    """Least, greatest and mean of each channel of a value, each (C,), float64."""

    low: Array
    high: Array
    mean: Array


@dataclass(frozen=True, eq=False)
class RecordedRanges:
    """Ranges of all float32 values of a folded network, inputs among them, by name, and the rows that gave them."""

    rows: int
    values: Mapping[str, RecordedRange]

    def tensors(self) -> dict[str, Tensor]:
        """Return what `statistics.safetensors` holds of them."""
        return {
            f"{name}.{field}": np.ascontiguousarray(getattr(each, field), dtype)
            for name, each in self.values.items()
            for field, dtype in _DTYPES.items()
        }

    def metadata(self) -> dict[str, str]:
        """Return the entry of the file's metadata."""
        return {_METADATA: json.dumps({"rows": self.rows, "values": list(self.values)})}


RangeRecorder = Callable[[Path], RecordedRanges | None]
"""Returns the ranges of a folded network, float32, on rows that it holds; None where they cannot be had."""


def read_recorded_ranges(path: Path) -> RecordedRanges | None:
    """Read the ranges that a bundle's `statistics.safetensors` holds; None where it holds none."""
    with safe_open(path, "numpy") as file:
        text = (file.metadata() or {}).get(_METADATA)
        if text is None:
            return None
        record = json.loads(text)
        return RecordedRanges(
            record["rows"],
            {
                name: RecordedRange(*(file.get_tensor(f"{name}.{field}").astype(np.float64) for field in _DTYPES))
                for name in record["values"]
            },
        )

"""Compare the outputs of two versions for the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from normfold.contract.manifest import Manifest, class_axis
from normfold.service.codec.json_tensors import Array
from normfold.service.errors import RunError
from normfold.service.observability.rollout.shadow_stats import ShadowStats


@dataclass
class Comparison:
    """What two versions computed for one request; the attributes are those of `ShadowStats`."""

    rows: int
    rows_not_finite: int = 0
    classified: int = 0
    agreeing: int = 0
    differences: dict[str, float] = field(default_factory=dict)

    def add_to(self, stats: ShadowStats) -> None:
        """Count it."""
        stats.compared += 1
        stats.rows += self.rows
        stats.rows_not_finite += self.rows_not_finite
        stats.classified += self.classified
        stats.agreeing += self.agreeing
        for output, difference in self.differences.items():
            stats.max_differences[output] = max(difference, stats.max_differences.get(output, 0.0))


def compare(serving: Mapping[str, Array], shadow: Mapping[str, Array], manifest: Manifest) -> Comparison:
    """Compare outputs by name, (rows, ...) each where rows are independent.

    Differences are computed in float64. Where a value is NaN or infinite for one version alone, the row is counted
    instead. Infinities of the same sign, and two NaN, are equal.

    Args:
        serving: of the version that serves.
        shadow: of the shadow, the same names.
        manifest: names the outputs that are logits.

    Raises:
        RunError: an output of the shadow has another shape.
    """
    first = next(iter(serving.values()))
    result = Comparison(len(first) if manifest.batchable and first.ndim else 1)
    unlike_rows: set[int] = set()
    for name, array in serving.items():
        other = shadow[name]
        if array.shape != other.shape:
            raise RunError(f"Output {name!r} has the shape {list(other.shape)} where {list(array.shape)} is served.")
        if not array.size:
            continue
        if array.dtype.kind == "O":
            result.differences[name] = float((array != other).any())
            continue
        difference, is_unlike = _difference(array, other)
        result.differences[name] = difference
        if is_unlike.any():
            unlike_rows |= set(np.nonzero(is_unlike)[0].tolist()) if manifest.batchable and array.ndim else {0}
        if name in manifest.card.logits and array.ndim >= 2:
            axis = class_axis(array.shape)
            equal = array.argmax(axis) == other.argmax(axis)
            result.classified += equal.size
            result.agreeing += int(equal.sum())
    result.rows_not_finite = len(unlike_rows)
    return result


def _difference(one: Array, other: Array) -> tuple[float, Array]:
    """Return the largest absolute difference of finite values, and where a value is finite or equal for one alone."""
    wide, other_wide = np.asarray(one, np.float64), np.asarray(other, np.float64)
    is_finite = np.isfinite(wide) & np.isfinite(other_wide)
    is_equal = (wide == other_wide) | (np.isnan(wide) & np.isnan(other_wide))
    with np.errstate(over="ignore", invalid="ignore"):
        distance = np.where(is_finite, np.abs(wide - other_wide), 0.0)
    return min(float(distance.max()), float(np.finfo(np.float64).max)), ~is_finite & ~is_equal

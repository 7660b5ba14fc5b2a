"""The sums of one shadow: requests, agreement, differences, and seconds of the runs of both versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from normfold.service.observability.stats import Histogram


@dataclass
class ShadowStats:
    """The sums of a version as the shadow of its model.

    The event loop counts what is dropped, the shadow's thread everything else.

    Attributes:
        compared: requests whose outputs were compared.
        dropped: sampled requests that were not run: the queue was full, or they were too large for it.
        failed: requests on which the shadow failed, or gave outputs of other shapes.
        rows: rows that were compared.
        rows_not_finite: of those, rows with a value that is NaN or infinite for one of the two versions alone.
        classified: top classes that were compared: one a row, or one a pixel; 0 if the model is no classifier.
        agreeing: of those, how many are equal.
        max_differences: by output, the largest absolute difference of two finite values; 1 for text that differs.
        serving_run: seconds of the runs of the serving version, of the compared requests.
        shadow_run: seconds of the shadow's runs.
    """

    compared: int = 0
    dropped: int = 0
    failed: int = 0
    rows: int = 0
    rows_not_finite: int = 0
    classified: int = 0
    agreeing: int = 0
    max_differences: dict[str, float] = field(default_factory=dict)
    serving_run: Histogram = field(default_factory=Histogram)
    shadow_run: Histogram = field(default_factory=Histogram)

    @property
    def agreement(self) -> float | None:
        """Part of the top classes that are equal; None before the first."""
        return self.agreeing / self.classified if self.classified else None

    def record(self) -> dict[str, Any]:
        """Return everything as JSON's types, for another process to `add`."""
        counts = {name: getattr(self, name) for name in _COUNTS}
        runs = {name: [getattr(self, name).counts, getattr(self, name).sum] for name in _RUNS}
        return {**counts, **runs, "max_differences": dict(self.max_differences)}

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the `record` of another process, of the same version."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + record[name])
        for name in _RUNS:
            getattr(self, name).add(*record[name])
        for output, difference in record["max_differences"].items():
            self.max_differences[output] = max(difference, self.max_differences.get(output, 0.0))


_COUNTS = ("compared", "dropped", "failed", "rows", "rows_not_finite", "classified", "agreeing")
_RUNS = ("serving_run", "shadow_run")

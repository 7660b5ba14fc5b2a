"""What an experiment hands back: a table, a picture, and for each claim a verdict that follows from the numbers."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

STANDARD_ERRORS = 2.0
"""A difference has a direction where its mean is more than this many standard errors from 0."""

MOST_DECIMALS = 5

RULE = (
    "For each seed a difference is taken between two networks of that seed; positive speaks for the claim. The claim "
    f"is supported where the mean difference exceeds {STANDARD_ERRORS:g} standard errors, contradicted where it is as "
    "far on the other side of 0, and otherwise not supported on these data. Where there is no difference at all, "
    "chance alone crosses one of the two lines in 18 of 100 cases with 3 seeds, in 12 with 5, in 8 with 10."
)


class Verdict(StrEnum):
    """What the numbers say of a claim."""

    SUPPORTED = "supported"
    NOT_SUPPORTED = "not supported on these data"
    CONTRADICTED = "contradicted"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with its standard error (NaN for one seed)."""

    mean: float
    error: float

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return shown(self.mean)
        if not 0 < self.error < math.inf:
            return f"{shown(self.mean)} ± {shown(self.error)}"
        digits = min(max(1 - math.floor(math.log10(self.error)), 0), MOST_DECIMALS)
        return f"{self.mean:,.{digits}f} ± {self.error:,.{digits}f}".replace("-", "−")


Values = Sequence[float] | npt.NDArray[np.float64]

Cell = str | int | float | Estimate
Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Raises:
        ValueError: a row has not one cell for each column.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"Row {wrong[0]!r} has not one cell for each of {len(self.columns)} columns.")

    def to_csv(self) -> str:
        """Return the table as CSV; an estimate takes a second column for its standard error."""
        pairs = [any(isinstance(row[index], Estimate) for row in self.rows) for index in range(len(self.columns))]
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        titles = zip(self.columns, pairs, strict=True)
        writer.writerow([part for title, pair in titles for part in (title, f"{title}: standard error")[: 1 + pair]])
        for row in self.rows:
            writer.writerow([part for cell, pair in zip(row, pairs, strict=True) for part in _parts(cell)[: 1 + pair]])
        return file.getvalue()


@dataclass(frozen=True)
class Check:
    """A claim, its source, and the differences that decide on it, one for each seed."""

    claim: str
    source: str
    difference: str
    """What was subtracted from what, in words, so that positive speaks for the claim."""
    differences: tuple[float, ...]

    @property
    def estimate(self) -> Estimate:
        """The mean difference."""
        return estimate(self.differences)

    @property
    def verdict(self) -> Verdict:
        """By the rule in RULE."""
        return judge(self.differences)


@dataclass(frozen=True)
class Finding:
    """One experiment: what was done, what was found, and what it says of the claims."""

    name: str
    """Of the files: `name.png`, `name.csv`."""
    title: str
    method: str
    table: Table
    caption: str
    """Of the picture: says what its error bars are."""
    picture: bytes
    """A PNG."""
    checks: tuple[Check, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all but the picture, for JSON: what is no finite number becomes null."""
        return {
            "name": self.name,
            "title": self.title,
            "method": self.method,
            "columns": list(self.table.columns),
            "rows": [[_plain(cell) for cell in row] for row in self.table.rows],
            "checks": [
                {
                    "claim": check.claim,
                    "source": check.source,
                    "difference": check.difference,
                    "differences": [_plain(float(value)) for value in check.differences],
                    "estimate": _plain(check.estimate),
                    "verdict": check.verdict.value,
                }
                for check in self.checks
            ],
        }


def estimate(values: Values) -> Estimate:
    """Return the mean and its standard error: the sample's standard deviation (n - 1) over the root of n."""
    numbers = [float(value) for value in values]
    if not all(map(math.isfinite, numbers)):
        return Estimate(math.nan, math.nan)
    error = statistics.stdev(numbers) / math.sqrt(len(numbers)) if len(numbers) > 1 else math.nan
    return Estimate(statistics.fmean(numbers), error)


def judge(differences: Values) -> Verdict:
    """Return what differences say of a claim that they be positive; see RULE.

    Differences that are not all finite, and a single one, support nothing: NaN compares false.
    """
    found = estimate(differences)
    allowed = STANDARD_ERRORS * found.error
    if found.mean > allowed:
        return Verdict.SUPPORTED
    if found.mean < -allowed:
        return Verdict.CONTRADICTED
    return Verdict.NOT_SUPPORTED


def shown(number: float) -> str:
    """Return a number as a table shows it: three digits, or more before the point; a whole number whole."""
    if not math.isfinite(number):
        return "–"
    if isinstance(number, int) or number == 0:
        return f"{number:,.0f}"
    number = float(f"{number:.2e}")  # so that 0.9996 is 1.00 and not 1.000
    digits = 2 - math.floor(math.log10(abs(number)))
    if digits > MOST_DECIMALS:
        return f"{number:.1e}".replace("-", "−")
    return f"{number:,.{max(digits, 0)}f}".replace("-", "−")


def _parts(cell: Cell) -> tuple[Any, Any]:
    return (cell.mean, cell.error) if isinstance(cell, Estimate) else (cell, "")


def _plain(value: Cell) -> Any:
    if isinstance(value, Estimate):
        return {"mean": _plain(value.mean), "standard_error": _plain(value.error)}
    return value if not isinstance(value, float) or math.isfinite(value) else None

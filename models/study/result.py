"""The result of an experiment: a table, a plot, and for each claim a verdict that is computed from the differences."""

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
"""Number of standard errors by which a mean difference must differ from 0 for a verdict."""

MAX_DECIMALS = 5

RULE = (
    "For each seed, a difference between two networks of that seed is computed; a positive one is in favour of the "
    f"claim. The claim is supported if the mean difference is above {STANDARD_ERRORS:g} standard errors, contradicted "
    f"if it is below −{STANDARD_ERRORS:g} standard errors, and otherwise not supported on these data. If the true "
    "difference is 0, the mean crosses one of these limits by chance in 18 of 100 cases with 3 seeds, in 12 with 5, in "
    "8 with 10."
)


class Verdict(StrEnum):
    """Verdict on a claim, by the rule in RULE."""

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
            return format_number(self.mean)
        if not 0 < self.error < math.inf:
            return f"{format_number(self.mean)} ± {format_number(self.error)}"
        digits = min(max(1 - math.floor(math.log10(self.error)), 0), MAX_DECIMALS)
        return f"{self.mean:,.{digits}f} ± {self.error:,.{digits}f}".replace("-", "−")


Values = Sequence[float] | npt.NDArray[np.float64]

Cell = str | int | float | Estimate
Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table with named columns.

    Raises:
        ValueError: a row has more or fewer cells than there are columns.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"Row {wrong[0]!r} does not have one cell for each of {len(self.columns)} columns.")

    def to_csv(self) -> str:
        """Return the table as CSV; a column of estimates is followed by one of their standard errors."""
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
    """A claim, its source, and the differences that decide on it."""

    claim: str
    source: str
    difference: str
    """The difference in words, minuend − subtrahend; a positive one is in favour of the claim."""
    differences: tuple[float, ...]
    """One for each seed."""

    @property
    def estimate(self) -> Estimate:
        """The mean difference."""
        return estimate(self.differences)

    @property
    def verdict(self) -> Verdict:
        """The verdict by the rule in RULE."""
        return judge(self.differences)


@dataclass(frozen=True)
class ExperimentResult:
    """The result of one experiment: method, measurements, and verdicts on claims."""

    name: str
    """Stem of the files: `name.png`, `name.csv`."""
    title: str
    method: str
    table: Table
    caption: str
    """Caption of the plot, with the meaning of its error bars."""
    plot: bytes
    """A PNG file."""
    checks: tuple[Check, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the plot as plain types for JSON; NaN and infinity become null."""
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
    """Return the mean of n values, and its standard error s / sqrt(n), with s² = Σ (x - mean)² / (n - 1)."""
    numbers = [float(value) for value in values]
    if not all(map(math.isfinite, numbers)):
        return Estimate(math.nan, math.nan)
    error = statistics.stdev(numbers) / math.sqrt(len(numbers)) if len(numbers) > 1 else math.nan
    return Estimate(statistics.fmean(numbers), error)


def judge(differences: Values) -> Verdict:
    """Return the verdict on a claim that the differences are positive; see RULE.

    It is NOT_SUPPORTED for a single difference, or if one is not finite, since comparisons with NaN are false.
    """
    found = estimate(differences)
    allowed = STANDARD_ERRORS * found.error
    if found.mean > allowed:
        return Verdict.SUPPORTED
    if found.mean < -allowed:
        return Verdict.CONTRADICTED
    return Verdict.NOT_SUPPORTED


def format_number(number: float) -> str:
    """Return a number with three significant digits, or all digits before the decimal point; integers in full."""
    if not math.isfinite(number):
        return "–"
    if isinstance(number, int) or number == 0:
        return f"{number:,.0f}"
    number = float(f"{number:.2e}")  # so that 0.9996 is 1.00 and not 1.000
    digits = 2 - math.floor(math.log10(abs(number)))
    if digits > MAX_DECIMALS:
        return f"{number:.1e}".replace("-", "−")
    return f"{number:,.{max(digits, 0)}f}".replace("-", "−")


def _parts(cell: Cell) -> tuple[Any, Any]:
    return (cell.mean, cell.error) if isinstance(cell, Estimate) else (cell, "")


def _plain(value: Cell) -> Any:
    if isinstance(value, Estimate):
        return {"mean": _plain(value.mean), "standard_error": _plain(value.error)}
    return value if not isinstance(value, float) or math.isfinite(value) else None

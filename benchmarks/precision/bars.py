"""What a benchmark requires: a bar is met or missed by what was measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Bar:
    """One requirement, and what was measured.

    Attributes:
        subject: of which network and form.
        quantity: that was measured, with its unit.
        measured: its value.
        minimum: the smallest value that is allowed.
        maximum: the greatest value that is allowed.
    """

    subject: str
    quantity: str
    measured: float
    minimum: float | None = None
    maximum: float | None = None

    @property
    def is_met(self) -> bool:
        """Return whether the value is allowed; NaN is not."""
        return (self.minimum is None or self.measured >= self.minimum) and (
            self.maximum is None or self.measured <= self.maximum
        )

    @property
    def allowed(self) -> str:
        """What is allowed, as in a table."""
        bounds = (("≥", self.minimum), ("≤", self.maximum))
        return ", ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)


def caught(subject: str, quantity: str, is_caught: bool) -> Bar:
    """Return the bar of a fault that was planted: 1 if it was found, and it must be."""
    return Bar(subject, quantity, float(is_caught), minimum=1)


def table_of_bars(bars: Iterable[Bar]) -> Table:
    """Return the bars, those that are missed in red."""
    table = Table("of", "measured", "value", "allowed", "met", title="Bars")
    for bar in bars:
        style = None if bar.is_met else "red"
        table.add_row(
            *(bar.subject, bar.quantity, f"{bar.measured:.4g}", bar.allowed), "yes" if bar.is_met else "NO", style=style
        )
    return table

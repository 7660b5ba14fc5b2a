"""How a table is read: which columns, which texts are missing values, and what becomes of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Missing = Literal["mean", "category", "refuse"]
"""What becomes of missing values.

    None       by the kind of a column: numbers and booleans as for mean, texts as for category
    mean       the training split's mean; of texts the categories' frequencies
    category   an input says that the value is missing, beside the mean for numbers and booleans
    refuse     an error, in the service too
"""


@dataclass(frozen=True)
class TableOptions:
    """Options of a table.

    Attributes:
        label_column: name of the label column, or names of several; None for the last column.
        drop: columns that are left out.
        categories: columns whose values are categories, though they look like numbers or dates.
        missing: see `Missing`.
        missing_values: texts that mean a missing value, beside the usual ones.
        group_column: its rows of one value are in one split; it is no input.
        time_column: its latest rows are tested; it is no input.
    """

    label_column: str | tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    missing: Missing | None = None
    missing_values: tuple[str, ...] = ()
    group_column: str | None = None
    time_column: str | None = None

    @property
    def split_columns(self) -> tuple[str, ...]:
        """Names of the columns that say how rows are split."""
        return tuple(name for name in (self.group_column, self.time_column) if name is not None)

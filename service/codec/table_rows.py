"""Rows of tables in a request: what is missing or unknown in them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy.typing as npt

from normfold.contract.preprocess import Preprocessing
from normfold.contract.tables.preprocessing import TablePreprocessing

MAX_NOTES = 100
"""Notes in an answer; the metric counts all."""


class RowNotes:
    """Collects notes about the instances of a request.

    Attributes:
        notes: as the answer has them, for the first MAX_NOTES values.
        found: number of values by column and word; see `contract.tables.preprocessing.FOUND`.
    """

    __slots__ = ("found", "notes")

    def __init__(self) -> None:
        self.notes: list[dict[str, Any]] = []
        self.found: Counter[tuple[str, str]] = Counter()

    def decode(self, preprocessing: Preprocessing, instance: Any, index: int) -> npt.NDArray[Any]:
        """Decode one instance, and note what is missing or unknown in the row of a table.

        Args:
            preprocessing: of the model.
            instance: as the client sent it.
            index: of the instance in the request.

        Raises:
            RawInputError: the instance does not fit.
        """
        if not isinstance(preprocessing, TablePreprocessing):
            return preprocessing.decode(instance)
        row = preprocessing.read(instance)
        self.found.update(row.found)
        if len(self.notes) < MAX_NOTES:
            self.notes += [{"instance": index, "column": note.column, "note": note.note} for note in row.notes]
        return row.values

    def add_to(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return an answer with the notes, if there are any."""
        return {**answer, "notes": self.notes} if self.notes else answer

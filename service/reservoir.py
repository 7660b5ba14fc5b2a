"""Recent inputs, kept for `normfold adapt`, if the operator wants it: rows as the network takes them.

    STATE/shift/NAME/VERSION/SHA/PID-N.samples     an .npz with an array for each input, the oldest row first

They are of what was watched, and are people's own data: nothing is kept unless NORMFOLD_KEEP_SAMPLES says how much.
"""

from __future__ import annotations

import io
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic

import numpy as np

from service.tensors import Array

logger = logging.getLogger(__name__)

MOST_BYTES = 64 * 2**20
"""Of all rows of a version, in one process."""

SAVE_S = 60.0
"""How often they are written down."""

SUFFIX = ".samples"

Row = Mapping[str, Array]


class Reservoir:
    """The newest rows of one version, in one process.

    Args:
        rows: the most that are kept.
        path: to write to.
    """

    def __init__(self, rows: int, path: Path) -> None:
        self._most, self._path = rows, path
        self._rows: deque[Row] = deque()
        self._bytes = 0
        self._saved_at, self._failed = monotonic(), False

    def add(self, tensors: Mapping[str, Array]) -> None:
        """Keep the rows of a request, as copies: a request's own memory would be held as a whole."""
        count = min(len(array) for array in tensors.values())
        for place in range(count):
            row = {name: array[place].copy() for name, array in tensors.items()}
            self._rows.append(row)
            self._bytes += _size(row)
        while self._rows and (len(self._rows) > self._most or self._bytes > MOST_BYTES):
            self._bytes -= _size(self._rows.popleft())

    @property
    def is_due(self) -> bool:
        """Whether they should be written down again."""
        return monotonic() - self._saved_at > SAVE_S

    def save(self) -> None:
        """Write them down."""
        self._saved_at = monotonic()
        aside = self._path.with_suffix(".new-samples")
        try:
            aside.write_bytes(packed(list(self._rows)))
            aside.replace(self._path)
        except OSError as error:
            if not self._failed:
                self._failed = True
                logger.error("Recent inputs cannot be kept in %s: %s.", self._path.parent, error.strerror)

    def all_rows(self) -> list[Row]:
        """Return the rows of all processes, the other ones' as they were last written down."""
        others = [path for path in sorted(self._path.parent.glob(f"*{SUFFIX}")) if path != self._path]
        return [row for path in others for row in read_rows(path)] + list(self._rows)


def packed(rows: Sequence[Row]) -> bytes:
    """Return rows as an .npz file, those of the newest row's shapes: one array cannot hold others."""
    shapes = {name: array.shape for name, array in rows[-1].items()} if rows else {}
    alike = [row for row in rows if {name: array.shape for name, array in row.items()} == shapes]
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{name: np.stack([row[name] for row in alike]) for name in shapes})
    return file.getvalue()


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file; none if it is gone or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            given = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, KeyError):
        return []
    count = min((len(array) for array in given.values()), default=0)
    return [{name: array[place] for name, array in given.items()} for place in range(count)]


def _size(row: Row) -> int:
    return sum(array.nbytes for array in row.values())

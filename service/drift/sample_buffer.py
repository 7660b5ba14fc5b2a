"""Recent inputs, kept for `normfold adapt` on request: rows as the network takes them (`contract.samples`).

They are of what was watched, and are people's own data: nothing is kept unless NORMFOLD_KEEP_SAMPLES says how much.
"""

from __future__ import annotations

import io
import logging
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from time import monotonic, time

import numpy as np

from normfold.contract.samples import (
    SAMPLES_SUFFIX,
    StoredSample,
    newest_samples,
    read_stored_samples,
    stack_samples,
    write_archive,
    write_stored_samples,
)
from normfold.service.codec.json_tensors import Array
from normfold.service.workers.process_files import ProcessFiles

logger = logging.getLogger(__name__)

MOST_BYTES = 64 * 2**20
"""Of all rows of a version, in one process."""

SAVE_S = 60.0
"""How often they are written down."""


class SampleBuffer:
    """The newest rows of one version, in one process. May be used from any thread.

    Args:
        rows: the most that are kept.
        files: of this process and the others.
    """

    def __init__(self, rows: int, files: ProcessFiles) -> None:
        self._most, self._files = rows, files
        self._rows: deque[StoredSample] = deque()
        self._bytes = 0
        self._guard = threading.Lock()
        self._saved_at, self._has_failed, self._is_changed = monotonic(), False, False

    def add(self, tensors: Mapping[str, Array], wanted: Array) -> None:
        """Keep rows of a request, as copies: a request's own memory would be held as a whole.

        Args:
            tensors: rows first.
            wanted: (rows,) bool: those to keep.
        """
        with self._guard:
            now = max(time(), self._rows[-1].time if self._rows else 0.0)  # the clock may be set back
            for place in np.flatnonzero(wanted):
                self._append(StoredSample(now, {name: array[place].copy() for name, array in tensors.items()}))

    def take(self, stem: Path) -> None:
        """Take over the rows of a process that ended."""
        with self._guard:
            rows = newest_samples([*self._rows, *read_stored_samples(stem.with_suffix(SAMPLES_SUFFIX))], self._most)
            self._rows.clear()
            self._bytes = 0
            for row in rows:
                self._append(row)

    @property
    def is_changed(self) -> bool:
        """Whether there is something to write down."""
        return self._is_changed

    @property
    def is_due(self) -> bool:
        """Whether they should be written down again."""
        return self._is_changed and monotonic() - self._saved_at > SAVE_S

    def save(self) -> None:
        """Write them down."""
        with self._guard:
            self._saved_at, self._is_changed = monotonic(), False
            try:
                write_stored_samples(self._files.own(SAMPLES_SUFFIX), list(self._rows))
            except OSError as error:
                if not self._has_failed:
                    self._has_failed = True
                    logger.error("Recent inputs cannot be kept in %s: %s.", self._files.folder, error.strerror)

    def packed(self) -> bytes:
        """Return the newest rows of all processes, the other ones' as they were last written down, as an .npz file."""
        with self._guard:
            own = list(self._rows)
        others = [row for path in self._files.others(SAMPLES_SUFFIX) for row in read_stored_samples(path)]
        file = io.BytesIO()
        write_archive(file, stack_samples(newest_samples([*others, *own], self._most))[1])
        return file.getvalue()

    def _append(self, row: StoredSample) -> None:
        self._rows.append(row)
        self._bytes += _size(row)
        self._is_changed = True
        while self._rows and (len(self._rows) > self._most or self._bytes > MOST_BYTES):
            self._bytes -= _size(self._rows.popleft())


def _size(row: StoredSample) -> int:
    return sum(array.nbytes for array in row.tensors.values())

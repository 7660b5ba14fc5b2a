"""Recent inputs for `normfold adapt`: rows as the network takes them (`contract.drift.samples`).

They are rows that the drift monitor sampled. They are the clients' data: none are kept unless NORMFOLD_KEEP_SAMPLES
says how many.
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

from normfold.contract.drift.flush_request import FLUSH_SUFFIX
from normfold.contract.drift.samples import (
    SAMPLES_SUFFIX,
    StoredSample,
    newest_samples,
    read_stored_samples,
    stack_samples,
    write_archive,
    write_stored_samples,
)
from normfold.service.codec.json_tensors import Array
from normfold.service.drift.process_files import ProcessFiles

logger = logging.getLogger(__name__)

MAX_BYTES = 64 * 2**20
"""Maximum bytes of the rows of a version, in one process."""

SAVE_INTERVAL_S = 4.0
"""Seconds between two writes of the rows, at least: `normfold adapt` reads what was written."""

_MAX_SAVE_SHARE = 0.01
"""Share of the time that writing takes: many large rows are written more rarely."""


class SampleBuffer:
    """The newest rows of one version, in one process. May be used from any thread.

    Args:
        max_rows: that are kept.
        files: of this process and the others.
    """

    def __init__(self, max_rows: int, files: ProcessFiles) -> None:
        self._max_rows, self._files = max_rows, files
        self._rows: deque[StoredSample] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._saved_at, self._save_s = monotonic(), 0.0
        self._has_failed = self._is_changed = False

    def add(self, tensors: Mapping[str, Array], selected: Array) -> None:
        """Add copies of rows of a request: the rows themselves would hold the memory of the whole body.

        Args:
            tensors: by input, rows first.
            selected: (rows,) bool, the rows to add.
        """
        with self._lock:
            now = max(time(), self._rows[-1].time if self._rows else 0.0)  # the clock may be set back
            for place in np.flatnonzero(selected):
                self._append(StoredSample(now, {name: array[place].copy() for name, array in tensors.items()}))

    def adopt(self, stem: Path) -> None:
        """Add the rows of a process that ended, by the stem of its files."""
        with self._lock:
            rows = newest_samples([*self._rows, *read_stored_samples(stem.with_suffix(SAMPLES_SUFFIX))], self._max_rows)
            self._rows.clear()
            self._bytes = 0
            for row in rows:
                self._append(row)

    @property
    def is_changed(self) -> bool:
        """Whether rows were added since the last `save`."""
        return self._is_changed

    @property
    def is_due(self) -> bool:
        """Whether `save` should be called again."""
        pause_s = max(SAVE_INTERVAL_S, self._save_s / _MAX_SAVE_SHARE)
        return self._is_changed and monotonic() - self._saved_at > pause_s

    def save(self) -> None:
        """Write the rows to this process's file; an error is logged once."""
        with self._lock:
            started = monotonic()
            try:
                write_stored_samples(self._files.own(SAMPLES_SUFFIX), list(self._rows))
                self._is_changed = self._has_failed = False
            except OSError as error:
                if not self._has_failed:
                    self._has_failed = True
                    logger.error("Recent inputs cannot be saved in %s: %s.", self._files.folder, error.strerror)
            self._saved_at = monotonic()
            self._save_s = self._saved_at - started

    def answer_request(self) -> None:
        """Write the rows, if a file requests it (`contract.drift.flush_request`), and delete the request.

        Raises:
            OSError: it cannot be deleted.
        """
        request = self._files.own(FLUSH_SUFFIX)
        if request.exists():
            self.save()
            request.unlink(missing_ok=True)

    def to_npz(self) -> bytes:
        """Return the newest rows of all processes as an .npz file; those of other processes as they last saved them."""
        with self._lock:
            own = list(self._rows)
        others = [row for path in self._files.others(SAMPLES_SUFFIX) for row in read_stored_samples(path)]
        file = io.BytesIO()
        write_archive(file, stack_samples(newest_samples([*others, *own], self._max_rows))[1])
        return file.getvalue()

    def _append(self, row: StoredSample) -> None:
        self._rows.append(row)
        self._bytes += _size(row)
        self._is_changed = True
        while self._rows and (len(self._rows) > self._max_rows or self._bytes > MAX_BYTES):
            self._bytes -= _size(self._rows.popleft())


def _size(row: StoredSample) -> int:
    return sum(array.nbytes for array in row.tensors.values())

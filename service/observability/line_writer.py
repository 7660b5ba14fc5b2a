"""Writes lines to a file descriptor from a thread, so that a slow disk or a full pipe never stops the event loop."""

from __future__ import annotations

import logging
import os
import select
import stat
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from time import monotonic

MAX_PENDING_BYTES = 8 * 2**20
"""Lines that were accepted and are not written yet may take this much memory; further lines are lost."""

FILE_WRITE_BYTES = 256 * 1024
"""Size of a write to a file: each is one append."""

REPEAT_ERROR_AFTER_S = 60.0
"""Seconds between two errors in the log on lines that were lost."""

_CLOSE_WITHIN_S = 2.0
"""Seconds that closing waits for a reader that does not read."""

logger = logging.getLogger(__name__)


class LineWriter:
    """Writes batches of lines, in order, from a thread of its own.

    Several processes may write to the same pipe: a write of at most `select.PIPE_BUF` bytes is not mixed with another
    one (POSIX, write()), so that lines stay whole.

    Args:
        descriptor: an open file descriptor; the thread closes it at its end.
        name: of what is written, for errors in the log: "The access log".
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self._write_bytes = FILE_WRITE_BYTES if stat.S_ISREG(os.fstat(descriptor).st_mode) else select.PIPE_BUF
        self._batches: SimpleQueue[list[bytes] | None] = SimpleQueue()
        self._accepted_bytes = 0  # counted by the caller's thread
        self._written_bytes = 0  # counted by the writer's thread
        self._lost_lines = 0  # counted by the caller's thread
        self._reported_lines = 0  # counted by the writer's thread
        self._silent_until = 0.0
        self._thread = threading.Thread(target=self._run, name="line-writer", daemon=True)
        self._thread.start()

    def submit(self, lines: list[bytes], size: int) -> None:
        """Add lines, `size` bytes together; returns at once. They are lost if too many are pending."""
        if self._accepted_bytes - self._written_bytes + size > MAX_PENDING_BYTES:
            self._lost_lines += len(lines)
            return  # the thread logs it: the reader of the log may be the one that does not read
        self._accepted_bytes += size
        self._batches.put(lines)

    def close(self) -> None:
        """Write what is pending, and end the thread; what a reader does not take within two seconds is lost."""
        self._batches.put(None)
        self._thread.join(_CLOSE_WITHIN_S)

    def _run(self) -> None:
        while (lines := self._batches.get()) is not None:
            for part in _parts(lines, self._write_bytes):
                try:
                    _write_all(self._descriptor, part)
                except OSError as error:
                    self._log_error(error.strerror or str(error))
                self._written_bytes += len(part)
            if self._lost_lines > self._reported_lines:
                self._log_error(f"{self._lost_lines - self._reported_lines:,} came faster than its reader reads")
                self._reported_lines = self._lost_lines
        os.close(self._descriptor)

    def _log_error(self, reason: str) -> None:
        if monotonic() >= self._silent_until:
            self._silent_until = monotonic() + REPEAT_ERROR_AFTER_S
            logger.error("%s cannot be written, and lines are lost: %s. (Logged once a minute.)", self._name, reason)


def _parts(lines: list[bytes], size: int) -> Iterator[bytes]:
    """Yield whole lines in parts of at most `size` bytes; a line that is longer is a part of its own."""
    part: list[bytes] = []
    length = 0
    for line in lines:
        if part and length + len(line) > size:
            yield b"".join(part)
            part, length = [], 0
        part.append(line)
        length += len(line)
    if part:
        yield b"".join(part)


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes, also where a descriptor takes fewer at once."""
    while data:
        data = data[os.write(descriptor, data) :]

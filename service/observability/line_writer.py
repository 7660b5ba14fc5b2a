"""Writes lines to a file descriptor, or another target, from a thread: a slow disk never stops the event loop."""

from __future__ import annotations

import logging
import os
import select
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import SimpleQueue
from time import monotonic
from typing import Protocol

MAX_PENDING_BYTES = 8 * 2**20
"""Lines that were accepted and are not written yet may take this much memory; further lines are lost."""

FILE_WRITE_BYTES = 256 * 1024
"""Size of a write to a file: each is one append."""

REPEAT_ERROR_AFTER_S = 60.0
"""Seconds between two errors in the log on lines that were lost."""

_CLOSE_WITHIN_S = 2.0
"""Seconds that closing waits for a reader that does not read."""

logger = logging.getLogger(__name__)


Line = bytes | Callable[[], bytes]
"""A line with its newline, or a function that makes it, which the writer's thread calls."""


class LineTarget(Protocol):
    """Where lines are written to; the writer's thread alone calls it.

    Attributes:
        write_bytes: lines are written in parts of at most so many bytes.
    """

    write_bytes: int

    def write(self, data: bytes) -> None:
        """Write whole lines.

        Raises:
            OSError: they cannot be written.
        """

    def close(self) -> None:
        """Release what is open."""


class DescriptorTarget:
    """An open file descriptor.

    Several processes may write to the same pipe: a write of at most `select.PIPE_BUF` bytes is not mixed with another
    one (POSIX, write()), so that lines stay whole.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.write_bytes = FILE_WRITE_BYTES if stat.S_ISREG(os.fstat(descriptor).st_mode) else select.PIPE_BUF

    def write(self, data: bytes) -> None:
        """Write whole lines."""
        write_all(self._descriptor, data)

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


class LineWriter:
    """Writes batches of lines, in order, from a thread of its own.

    Args:
        target: an open file descriptor, or another target; the thread closes it at its end.
        name: of what is written, for errors in the log: "The access log".
        max_pending_bytes: lines that were accepted and are not written yet may take this much memory;
            None: MAX_PENDING_BYTES.
    """

    def __init__(self, target: int | LineTarget, name: str, max_pending_bytes: int | None = None) -> None:
        self._target = DescriptorTarget(target) if isinstance(target, int) else target
        self._name, self._max_pending_bytes = name, max_pending_bytes or MAX_PENDING_BYTES
        self._batches: SimpleQueue[tuple[Sequence[Line], int] | None] = SimpleQueue()
        self._accepted_bytes = 0  # counted by the caller's thread
        self._done_bytes = 0  # counted by the writer's thread
        self._dropped_lines = 0  # counted by the caller's thread
        self._reported_lines = 0  # counted by the writer's thread
        self._failed_lines = 0  # counted by the writer's thread
        self.written_lines = 0  # counted by the writer's thread
        self._silent_until = 0.0
        self._thread = threading.Thread(target=self._run, name="line-writer", daemon=True)
        self._thread.start()

    @property
    def lost_lines(self) -> int:
        """Lines that came faster than they could be written, or could not be written."""
        return self._dropped_lines + self._failed_lines

    def submit(self, lines: Sequence[Line], size: int) -> None:
        """Add lines, `size` bytes together; returns at once. They are lost if too many are pending."""
        if self._accepted_bytes - self._done_bytes + size > self._max_pending_bytes:
            self._dropped_lines += len(lines)
            return  # the thread logs it: the reader of the log may be the one that does not read
        self._accepted_bytes += size
        self._batches.put((lines, size))

    def close(self) -> None:
        """Write what is pending, and end the thread; what a reader does not take within two seconds is lost."""
        self.finish()
        self._thread.join(_CLOSE_WITHIN_S)

    def finish(self) -> None:
        """Write what is pending, and end the thread; returns at once."""
        self._batches.put(None)

    def _run(self) -> None:
        while self._write_batch():
            pass
        self._target.close()

    def _write_batch(self) -> bool:
        """Write one batch; no reference to it outlives this call. Return whether there will be more."""
        batch = self._batches.get()
        if batch is None:
            return False
        lines, size = batch
        for part in _parts(self._make(lines), self._target.write_bytes):
            try:
                self._target.write(part)
                self.written_lines += part.count(b"\n")
            except OSError as error:
                self._failed_lines += part.count(b"\n")
                self._log_error(error.strerror or str(error))
        self._done_bytes += size
        if self._dropped_lines > self._reported_lines:
            self._log_error(f"{self._dropped_lines - self._reported_lines:,} came faster than its reader reads")
            self._reported_lines = self._dropped_lines
        return True

    def _make(self, lines: Sequence[Line]) -> Iterator[bytes]:
        """Yield the lines, made where they are functions; one that cannot be made is lost."""
        for line in lines:
            if isinstance(line, bytes):
                yield line
                continue
            try:
                yield line()
            except Exception as error:  # noqa: BLE001 -- a thread that ends would lose all that come
                self._failed_lines += 1
                self._log_error(f"a line cannot be made ({error})")

    def _log_error(self, reason: str) -> None:
        if monotonic() >= self._silent_until:
            self._silent_until = monotonic() + REPEAT_ERROR_AFTER_S
            logger.error("%s cannot be written, and lines are lost: %s. (Logged once a minute.)", self._name, reason)


def _parts(lines: Iterable[bytes], size: int) -> Iterator[bytes]:
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


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes, also where a descriptor takes fewer at once."""
    while data:
        data = data[os.write(descriptor, data) :]

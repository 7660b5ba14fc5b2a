"""Collects lines in memory, and writes them from a thread: a slow disk or reader never stops the event loop."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic

from normfold.service.lines.targets import LineTarget

FLUSH_AFTER_S = 0.25
"""Seconds after which a line is written at the latest, if nothing that is written before is in the way."""

FLUSH_BYTES = 64 * 1024
"""Lines that together have so many bytes are written at once."""

MAX_PENDING_BYTES = 8 * 2**20
"""Lines that were accepted and are not written yet may take this much memory; further lines are lost."""

REPEAT_REPORT_AFTER_S = 60.0
"""Seconds between two reports of lost lines."""

CLOSE_WITHIN_S = 2.0
"""Seconds that closing waits for a reader that does not read."""

logger = logging.getLogger(__name__)

Line = bytes | Callable[[], bytes]
"""A line with its newline, or a function that makes it, which the writer's thread calls."""

_Item = tuple[Line, int] | LineTarget | threading.Event
"""What the thread takes in order: a line and its size; a target for the lines behind it; an event that it sets."""


def log_report(text: str) -> None:
    """Log an error on lines that were lost."""
    logger.error("%s", text)


class LineWriter:
    """Writes lines, in order, from a thread of its own. Any thread may add lines, also a handler of signals.

    Args:
        target: what they are written to; the thread closes it at its end.
        name: of what is written, at the beginning of a sentence: "The access log".
        report: called by the thread with a sentence on lines that were lost; returns a line that the thread writes to
            the same target, or None if it has logged the sentence elsewhere.
        flush_bytes: lines that together have so many bytes are written at once.
        max_pending_bytes: lines that were accepted and are not written yet may take this much memory.

    Attributes:
        written_lines: how many were written.
    """

    def __init__(
        self,
        target: LineTarget,
        name: str,
        report: Callable[[str], bytes | None] = log_report,
        *,
        flush_bytes: int = FLUSH_BYTES,
        max_pending_bytes: int = MAX_PENDING_BYTES,
    ) -> None:
        self._target, self._name, self._report = target, name, report
        self._flush_bytes, self._max_pending_bytes = flush_bytes, max_pending_bytes
        self._lock = threading.RLock()  # a signal's handler may add a line while its thread is adding one
        self._pending: deque[_Item] = deque()
        self._collected_bytes = 0  # of the lines in `_pending`
        self._unwritten_bytes = 0  # those, and the lines that the thread has taken and not written yet
        self._wake: SimpleQueue[bool] = SimpleQueue()  # whether to write at once; its put() can be interrupted by put()
        self._is_woken = self._is_urgent = self._is_closed = False
        self._dropped_lines = 0  # counted under the lock
        self._failed_lines = self._reported_lines = self.written_lines = 0  # counted by the thread
        self._reason, self._silent_until = "", 0.0
        self._thread = threading.Thread(target=self._run, name="line-writer", daemon=True)
        self._thread.start()

    @property
    def lost_lines(self) -> int:
        """Lines that came faster than they could be written, or could not be written."""
        return self._dropped_lines + self._failed_lines

    def write(self, line: Line, size: int, *, at_once: bool = False) -> None:
        """Add a line; returns at once. It is lost if too many are pending.

        Args:
            line: to be written.
            size: its bytes in memory.
            at_once: do not wait for further lines to write together with this one.
        """
        with self._lock:
            if self._is_closed or self._unwritten_bytes + size > self._max_pending_bytes:
                self._dropped_lines += 1
                return  # the thread reports it: the reader of the log may be the one that does not read
            self._unwritten_bytes += size
            self._collected_bytes += size
            self._add((line, size), at_once or self._collected_bytes > self._flush_bytes)

    def set_target(self, target: LineTarget) -> None:
        """Write later lines to another target; those before are still written to the one before."""
        with self._lock:
            self._add(target, at_once=True)

    def flush(self, within_s: float = CLOSE_WITHIN_S) -> bool:
        """Wait until everything is written, for a limited time; return whether it is."""
        written = threading.Event()
        with self._lock:
            self._add(written, at_once=True)
        return written.wait(within_s)

    def close(self, within_s: float = CLOSE_WITHIN_S) -> None:
        """Write what is pending, and end the thread; what a reader does not take within a limited time is lost."""
        with self._lock:
            self._is_closed = True
            self._wake.put(True)
        self._thread.join(within_s)

    def _add(self, item: _Item, at_once: bool) -> None:
        self._pending.append(item)
        if at_once and not self._is_urgent:
            self._is_urgent = True
            self._wake.put(True)
        elif not self._is_woken:
            self._is_woken = True
            self._wake.put(False)

    def _run(self) -> None:
        is_closed = False
        while not is_closed:
            if not self._wake.get():
                with suppress(Empty):
                    self._wake.get(timeout=FLUSH_AFTER_S)
            with self._lock:
                self._collected_bytes = 0
                self._is_woken = self._is_urgent = False
                is_closed = self._is_closed
            while self._pending:
                self._write_batch()
            self._report_losses(is_last=is_closed)
        self._target.close()

    def _write_batch(self) -> None:
        """Write the oldest lines, about `flush_bytes` of them; no reference to one outlives this call."""
        lines: list[tuple[Line, int]] = []
        size = 0
        while self._pending and size < self._flush_bytes:
            item = self._pending.popleft()
            if isinstance(item, tuple):
                lines.append(item)
                size += item[1]
                continue
            self._write_lines(lines)
            lines = []
            if isinstance(item, threading.Event):
                item.set()
            else:
                self._target.close()
                self._target = item
        self._write_lines(lines)

    def _write_lines(self, lines: list[tuple[Line, int]]) -> None:
        for data, count, size in _parts(self._make(lines), self._target.write_bytes):
            try:
                self._target.write(data)
                self.written_lines += count
            except OSError as error:
                self._failed_lines += count
                self._reason = error.strerror or str(error)
            with self._lock:
                self._unwritten_bytes -= size

    def _make(self, lines: list[tuple[Line, int]]) -> Iterator[tuple[bytes, int]]:
        """Yield the lines, made where they are functions, and their sizes; one that cannot be made is lost, b""."""
        for line, size in lines:
            if isinstance(line, bytes):
                yield line, size
                continue
            try:
                yield line(), size
            except Exception as error:  # noqa: BLE001 -- a thread that ends would lose all that come
                self._failed_lines += 1
                self._reason = f"a line cannot be made ({error})"
                yield b"", size

    def _report_losses(self, *, is_last: bool) -> None:
        """Report lines that were lost since the last report, at most once a minute, and at the end."""
        count = self.lost_lines - self._reported_lines
        if not count or (monotonic() < self._silent_until and not is_last):
            return
        reason = self._reason or "they came faster than its reader reads"
        lines = "1 line is" if count == 1 else f"{count:,} lines are"
        text = f"{self._name}: {lines} lost: {reason}. (Logged once a minute.)"
        line = self._report(text)
        if line is not None:
            try:
                self._target.write(line)
            except OSError:
                return  # the next batch tries again
        self._reported_lines += count
        self._reason, self._silent_until = "", monotonic() + REPEAT_REPORT_AFTER_S


def _parts(lines: Iterable[tuple[bytes, int]], limit: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield whole lines in parts of at most `limit` bytes: data, lines, sum of sizes; a longer line is its own part."""
    part: list[bytes] = []
    length = sizes = 0
    for line, size in lines:
        if part and length + len(line) > limit:
            yield b"".join(part), sum(map(bool, part)), sizes
            part, length, sizes = [], 0, 0
        part.append(line)
        length += len(line)
        sizes += size
    if part:
        yield b"".join(part), sum(map(bool, part)), sizes

"""The access log: a line for every request, in the service's log or in a file."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Protocol

from normfold.service.errors import SettingsError
from normfold.service.logs import FACTS, LogFormat, configured_format
from normfold.service.observability.access_line import (
    ACCESS_LOGGER,
    JsonFormat,
    LineFormat,
    format_text,
    log_fields,
    printable,
)
from normfold.service.observability.line_writer import LineWriter
from normfold.service.observability.request_trace import RequestTrace
from normfold.service.settings import Settings

FLUSH_AFTER_S = 0.25
FLUSH_BYTES = 64 * 1024

logger = logging.getLogger(ACCESS_LOGGER)


class AccessLog(Protocol):
    """Writes a line for every request."""

    def write(self, trace: RequestTrace) -> None:
        """Write the line of a request."""

    def close(self) -> None:
        """Write what is pending, and release what is open."""


def open_access_log(settings: Settings) -> AccessLog:
    """Return the access log that the settings ask for.

    A file, if `access_log` names one. Otherwise the service's log: standard error, where the service writes its log
    there itself; the logger `normfold.access`, where an application configures logging its own way.

    Raises:
        SettingsError: the file cannot be written.
    """
    if settings.access_log is not None:
        return BatchedAccessLog(_open_file(settings.access_log), JsonFormat())
    own_format = configured_format()
    if own_format is None or not logger.isEnabledFor(logging.INFO):
        return LoggerAccessLog()
    try:
        descriptor = os.dup(sys.stderr.fileno())
    except (AttributeError, OSError):  # standard error is closed, or replaced by an object that is no file
        return LoggerAccessLog()
    return BatchedAccessLog(
        descriptor, format_text if own_format is LogFormat.TEXT else JsonFormat(of_service_log=True)
    )


def _open_file(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError as error:
        raise SettingsError(f"The access log {str(path)!r} cannot be written: {error.strerror}.") from None


class LoggerAccessLog:
    """Writes each line through Python's logging."""

    def write(self, trace: RequestTrace) -> None:
        """Write the line of a request."""
        if logger.isEnabledFor(logging.INFO):
            facts = log_fields(trace)
            facts["path"] = path = printable(trace.path)
            text = "%s %s %d in %.1f ms"
            logger.info(text, trace.method, path, trace.status, facts["ms"], extra={FACTS: facts})

    def close(self) -> None:
        """Do nothing."""


class BatchedAccessLog:
    """Collects lines, and writes them together every FLUSH_AFTER_S seconds, from a thread.

    Args:
        descriptor: open file descriptor to write to; it is closed behind `close`.
        line_format: makes the line of a request.
    """

    def __init__(self, descriptor: int, line_format: LineFormat) -> None:
        self._writer = LineWriter(descriptor, "The access log")
        self._format = line_format
        self._lines: list[bytes] = []
        self._size = 0
        self._due: asyncio.TimerHandle | None = None

    def write(self, trace: RequestTrace) -> None:
        """Add the line of a request to those of the next flush."""
        line = self._format(trace)
        self._lines.append(line)
        self._size += len(line)
        if self._size > FLUSH_BYTES:
            self.flush()
        elif self._due is None:
            self._due = asyncio.get_running_loop().call_later(FLUSH_AFTER_S, self.flush)

    def flush(self) -> None:
        """Give the lines to the thread that writes them."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        lines, size = self._lines, self._size
        self._lines, self._size = [], 0
        if lines:
            self._writer.submit(lines, size)

    def close(self) -> None:
        """Flush, and wait until the lines are written."""
        self.flush()
        self._writer.close()

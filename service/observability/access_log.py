"""The access log: a line for every request, in the service's log or in a file."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Protocol

from normfold.service.errors import SettingsError
from normfold.service.lines.line_writer import LineWriter
from normfold.service.lines.targets import DescriptorTarget
from normfold.service.logs import FACTS, LogFormat, configured_format, standard_error_writer
from normfold.service.observability.access_line import (
    ACCESS_LOGGER,
    JsonFormat,
    LineFormat,
    format_text,
    log_fields,
    printable,
)
from normfold.service.observability.request_trace import RequestTrace
from normfold.service.settings import Settings

logger = logging.getLogger(ACCESS_LOGGER)


class AccessLog(Protocol):
    """Writes a line for every request."""

    def write(self, trace: RequestTrace) -> None:
        """Write the line of a request."""

    def lost_lines(self) -> dict[str, int]:
        """Return the number of lines that were lost, of a log that is counted for itself."""

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
        of_file = LineWriter(_open_file(settings.access_log), "The access log")
        return BatchedAccessLog(of_file, JsonFormat(), settings.access_log)
    own_format, writer = configured_format(), standard_error_writer()
    if own_format is None or writer is None or not logger.isEnabledFor(logging.INFO):
        return LoggerAccessLog()
    return BatchedAccessLog(writer, format_text if own_format is LogFormat.TEXT else JsonFormat(of_service_log=True))


def _open_file(path: Path) -> DescriptorTarget:
    try:
        return DescriptorTarget(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666))
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

    def lost_lines(self) -> dict[str, int]:
        """Return nothing: logging does not count."""
        return {}

    def close(self) -> None:
        """Do nothing."""


class BatchedAccessLog:
    """Gives lines to a thread that writes them together.

    Args:
        writer: of the lines; closed by `close` if there is a path: otherwise the service's log has lines behind it.
        line_format: makes the line of a request.
        path: of the file, which `reopen` opens again; None for standard error.
    """

    def __init__(self, writer: LineWriter, line_format: LineFormat, path: Path | None = None) -> None:
        self._writer, self._format, self.path = writer, line_format, path

    def write(self, trace: RequestTrace) -> None:
        """Add the line of a request."""
        line = self._format(trace)
        self._writer.write(line, len(line))

    def lost_lines(self) -> dict[str, int]:
        """Return the number of lines of the file that were lost; those of standard error are counted as its."""
        return {} if self.path is None else {"access_log": self._writer.lost_lines}

    def reopen(self) -> bool:
        """Go on in a new file of the same name; return whether that worked: an error is logged.

        The lines before are still written to the file that was open.
        """
        assert self.path is not None
        try:
            file = _open_file(self.path)
        except SettingsError as error:
            logging.getLogger(__name__).error("%s The file that is open gets the lines as before.", error)
            return False
        self._writer.set_target(file)
        return True

    def close(self) -> None:
        """Wait until the lines of a file are written, for a limited time."""
        if self.path is not None:
            self._writer.close()

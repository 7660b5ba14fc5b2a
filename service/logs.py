"""Logs on standard error: one JSON object a line, or plain text."""

from __future__ import annotations

import json
import logging
import multiprocessing
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from normfold.service.lines.line_writer import CLOSE_WITHIN_S, LineWriter
from normfold.service.lines.targets import StandardErrorTarget
from normfold.service.settings import Settings

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the current request, added to every log line that it causes."""

TRACE_ID: ContextVar[str | None] = ContextVar("trace_id", default=None)
"""Id of the trace that the request belongs to, likewise."""

FACTS = "facts"
"""Name of the record attribute that holds further fields: `logger.info(…, extra={FACTS: {…}})`."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, further fields, traceback.

    The fields include request_id and trace_id of the current request, and `worker` (the process id) of several workers.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if multiprocessing.parent_process() is not None:
            fields["worker"] = record.process
        if (request_id := REQUEST_ID.get()) is not None:
            fields["request_id"] = request_id
        if (trace_id := TRACE_ID.get()) is not None:
            fields["trace_id"] = trace_id
        fields |= getattr(record, FACTS, {})
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


class TextFormatter(logging.Formatter):
    """Time, level and message, for a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")


class StandardErrorHandler(logging.Handler):
    """Writes to standard error from a thread: a reader that stands still never stops who logs.

    Lines are written as they come. At the end of the process, what the reader does not take within CLOSE_WITHIN_S
    seconds is lost.

    Attributes:
        writer: of the lines; the access log adds its own to it.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.writer = LineWriter(StandardErrorTarget(descriptor), "The log on standard error", self._format_report)
        self._is_stuck = False

    def emit(self, record: logging.LogRecord) -> None:
        """Add the line of a record."""
        try:
            line = self._encode(record)
        except Exception:  # noqa: BLE001 -- as in logging's handlers: a line that cannot be made stops nobody
            self.handleError(record)
        else:
            self.writer.write(line, len(line), at_once=True)

    def flush(self) -> None:
        """Wait until the lines are written, for a limited time."""
        self._is_stuck = not self.writer.flush()

    def close(self) -> None:
        """Write what is pending, for a limited time, and end the thread."""
        self.writer.close(0.0 if self._is_stuck else CLOSE_WITHIN_S)
        super().close()

    def _encode(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _format_report(self, text: str) -> bytes:
        fields = {"name": __name__, "levelno": logging.ERROR, "levelname": "ERROR", "msg": text}
        return self._encode(logging.makeLogRecord(fields))


class LogFormat(StrEnum):
    """How the service's log is written."""

    JSON = "json"
    TEXT = "text"


def configured_format() -> LogFormat | None:
    """Return how this process writes the service's log; None if `configure_logging` did not configure it."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter):
            return LogFormat.JSON
        if isinstance(handler.formatter, TextFormatter):
            return LogFormat.TEXT
    return None


def standard_error_writer() -> LineWriter | None:
    """Return what writes the service's log to standard error; None if `configure_logging` did not configure it."""
    handlers = logging.getLogger().handlers
    return next((handler.writer for handler in handlers if isinstance(handler, StandardErrorHandler)), None)


def configure_logging(settings: Settings) -> None:
    """Send every log line of the process, Python's warnings included, to standard error."""
    text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    handler = _standard_error_handler()
    handler.setFormatter(TextFormatter() if text else JsonFormatter())
    logging.captureWarnings(True)
    root = logging.getLogger()
    before = [each for each in root.handlers if isinstance(each, StandardErrorHandler)]
    root.handlers[:] = [handler]
    for each in before:
        each.close()
    root.setLevel(settings.log_level.upper())
    # The service logs its start and end itself; uvicorn's warnings and errors stay.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, root.level))


def _standard_error_handler() -> logging.Handler:
    try:
        return StandardErrorHandler(sys.stderr.fileno())
    except (AttributeError, OSError):  # standard error is closed, or replaced by an object that is no file
        return logging.StreamHandler()

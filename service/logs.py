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


def configure_logging(settings: Settings) -> None:
    """Send every log line of the process, Python's warnings included, to standard error."""
    text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter() if text else JsonFormatter())
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    # The service logs its start and end itself; uvicorn's warnings and errors stay.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, root.level))

"""The access log: a line for every request, in the service's log or in a file, which costs less."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, time
from typing import Any

import orjson

from normfold.service.auth.key_file import Key
from normfold.service.errors import SettingsError
from normfold.service.logs import FACTS
from normfold.service.observability.request_trace import RequestTrace

FLUSH_AFTER_S = 0.25
FLUSH_BYTES = 64 * 1024
REPEAT_ERROR_AFTER_S = 60.0
"""Seconds between two errors in the log on an access log that cannot be written."""

logger = logging.getLogger("normfold.access")

_LINE = (
    '{"time":"%s","request_id":"%s","method":"POST","path":"%s","status":200,"ms":%.3f,"model":"%s","version":%d%s,'
    '"rows":%d,"decode_ms":%.3f,"queue_ms":%.3f,"wait_ms":%.3f,"run_ms":%.3f,"encode_ms":%.3f}\n'
)


def log_fields(trace: RequestTrace) -> dict[str, Any]:
    """Return the fields of a line: method, path, status, model, key, trace, and the milliseconds of each phase."""
    facts: dict[str, Any] = {"method": trace.method, "path": trace.path, "status": trace.status}
    facts["ms"] = _ms(trace.started, trace.ended)
    if trace.model:
        facts["model"] = trace.model
    if trace.version:
        facts["version"] = trace.version
    if trace.client_request_id is not None:
        facts["id"] = trace.client_request_id
    if trace.key is not None:
        facts["key"] = _describe(trace.key)
    if trace.trace_id is not None:
        facts["trace_id"] = trace.trace_id
    queued = trace.queued_request
    if queued is not None:
        facts["rows"] = queued.rows
        if trace.status == 200:
            facts["decode_ms"] = _ms(trace.received, trace.decoded)
            facts["queue_ms"] = _ms(queued.queued_at, queued.batched_at)
            facts["wait_ms"] = _ms(queued.batched_at, queued.run_started_at)
            facts["run_ms"] = _ms(queued.run_started_at, queued.run_ended_at)
            facts["encode_ms"] = _ms(queued.run_ended_at, trace.encoded)
    return facts


class LoggerAccessLog:
    """Writes the lines to the service's log."""

    def write(self, trace: RequestTrace) -> None:
        """Write the line of a request."""
        if logger.isEnabledFor(logging.INFO):
            facts = log_fields(trace)
            path = trace.path if trace.path.isprintable() else repr(trace.path)  # a client's path must not end the line
            facts["path"] = path
            text = "%s %s %d in %.1f ms"
            logger.info(text, trace.method, path, trace.status, facts["ms"], extra={FACTS: facts})


class FileAccessLog:
    """Writes lines of JSON to a file, together every FLUSH_AFTER_S seconds.

    Args:
        path: the file; created if it does not exist, otherwise appended to.

    Raises:
        SettingsError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise SettingsError(f"The access log {str(path)!r} cannot be written: {error.strerror}.") from None
        self._lines: list[bytes] = []
        self._size = 0
        self._due: asyncio.TimerHandle | None = None
        self._second, self._prefix = 0, ""
        self._silent_until = 0.0

    def write(self, trace: RequestTrace) -> None:
        """Add the line of a request to those of the next flush."""
        line = (
            self._format_inference(trace)
            if trace.status == 200 and trace.queued_request is not None
            else self._line(trace)
        )
        self._lines.append(line)
        self._size += len(line)
        if self._size > FLUSH_BYTES:
            self.flush()
        elif self._due is None:
            self._due = asyncio.get_running_loop().call_later(FLUSH_AFTER_S, self.flush)

    def _line(self, trace: RequestTrace) -> bytes:
        return orjson.dumps(
            {"time": self._now(), "request_id": trace.request_id, **log_fields(trace)}, option=orjson.OPT_APPEND_NEWLINE
        )

    def _format_inference(self, trace: RequestTrace) -> bytes:
        """Return the same as `_line` for a request that a network answered, in half the time."""
        queued = trace.queued_request
        assert queued is not None  # the caller has checked it
        extra = "" if trace.client_request_id is None else f',"id":{orjson.dumps(trace.client_request_id).decode()}'
        if trace.key is not None:
            extra += f',"key":{orjson.dumps(_describe(trace.key)).decode()}'
        if trace.trace_id is not None:
            extra += f',"trace_id":"{trace.trace_id}"'
        fields = (
            self._now(),
            trace.request_id,
            trace.path,
            1000 * (trace.ended - trace.started),
            trace.model,
            trace.version,
            extra,
            queued.rows,
            1000 * (trace.decoded - trace.received),
            1000 * (queued.batched_at - queued.queued_at),
            1000 * (queued.run_started_at - queued.batched_at),
            1000 * (queued.run_ended_at - queued.run_started_at),
            1000 * (trace.encoded - queued.run_ended_at),
        )
        return (_LINE % fields).encode()

    def flush(self) -> None:
        """Write the lines; if that fails, as on a full disk, they are lost."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        data, self._lines, self._size = b"".join(self._lines), [], 0
        try:
            self._file.write(data)
        except OSError as error:
            if monotonic() >= self._silent_until:
                self._silent_until = monotonic() + REPEAT_ERROR_AFTER_S
                text = "The access log cannot be written, and lines are lost: %s. (Logged once a minute.)"
                logging.getLogger(__name__).error(text, error.strerror)

    def reopen(self) -> bool:
        """Flush, and go on in a new file of the same name; return whether that worked: an error is logged."""
        self.flush()
        try:
            file = self._path.open("ab", buffering=0)
        except OSError as error:
            text = "The access log %r cannot be reopened (%s); its lines go on into the file that is open."
            logging.getLogger(__name__).error(text, str(self._path), error.strerror)
            return False
        self._file.close()
        self._file = file
        return True

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        self._file.close()

    def _now(self) -> str:
        now = time()
        second = int(now)
        if second != self._second:
            self._second, self._prefix = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._prefix}.{int(1000 * (now - second)):03d}Z"


def _describe(key: Key) -> dict[str, str]:
    return {"id": key.id, "name": key.name}


def _ms(start: float, end: float) -> float:
    return round(1000 * (end - start), 3)

"""The access log: a line for every request, through the service's log or, cheaply, into a file of its own."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, time
from typing import Any

import orjson

from normfold.service.auth.keys import Key
from normfold.service.errors import SettingsError
from normfold.service.logs import FACTS
from normfold.service.observability.request_trace import RequestTrace

FLUSH_AFTER_S = 0.25
FLUSH_BYTES = 64 * 1024
QUIET_S = 60.0

logger = logging.getLogger("normfold.access")

_LINE = (
    '{{"time":"{}","request_id":"{}","method":"POST","path":"{}","status":200,"ms":{:.3f},"model":"{}","version":{}{},'
    '"rows":{},"decode_ms":{:.3f},"queue_ms":{:.3f},"wait_ms":{:.3f},"run_ms":{:.3f},"encode_ms":{:.3f}}}\n'
)


def facts_of(phases: RequestTrace) -> dict[str, Any]:
    """Return what a line says: what was asked, what was answered, and the milliseconds of each phase."""
    facts: dict[str, Any] = {"method": phases.method, "path": phases.path, "status": phases.status}
    facts["ms"] = _ms(phases.started, phases.ended)
    if phases.model:
        facts["model"] = phases.model
    if phases.version:
        facts["version"] = phases.version
    if phases.identity is not None:
        facts["id"] = phases.identity
    if phases.key is not None:
        facts["key"] = _describe(phases.key)
    if phases.trace_id is not None:
        facts["trace_id"] = phases.trace_id
    job = phases.job
    if job is not None:
        facts["rows"] = job.weight
        if phases.status == 200:
            facts["decode_ms"] = _ms(phases.received, phases.decoded)
            facts["queue_ms"] = _ms(job.queued_at, job.started_at)
            facts["wait_ms"] = _ms(job.started_at, job.run_at)
            facts["run_ms"] = _ms(job.run_at, job.ended_at)
            facts["encode_ms"] = _ms(job.ended_at, phases.encoded)
    return facts


class LogLines:
    """Lines among those of the service's log."""

    def write(self, phases: RequestTrace) -> None:
        """Write the line of a request."""
        if logger.isEnabledFor(logging.INFO):
            facts = facts_of(phases)
            path = phases.path if phases.path.isprintable() else repr(phases.path)  # no line is a client's to end
            facts["path"] = path
            text = "%s %s %d in %.1f ms"
            logger.info(text, phases.method, path, phases.status, facts["ms"], extra={FACTS: facts})


class FileLines:
    """Lines of JSON in a file, written together every quarter of a second.

    Args:
        path: appended to, made if need be.

    Raises:
        SettingsError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise SettingsError(f"The access log {str(path)!r} cannot be written: {error.strerror}.") from None
        self._lines: list[bytes] = []
        self._size = 0
        self._due: asyncio.TimerHandle | None = None
        self._second, self._prefix = 0, ""
        self._quiet_until = 0.0

    def write(self, phases: RequestTrace) -> None:
        """Keep the line of a request until the next flush."""
        line = self._quick_line(phases) if phases.status == 200 and phases.job is not None else self._line(phases)
        self._lines.append(line)
        self._size += len(line)
        if self._size > FLUSH_BYTES:
            self.flush()
        elif self._due is None:
            self._due = asyncio.get_running_loop().call_later(FLUSH_AFTER_S, self.flush)

    def _line(self, phases: RequestTrace) -> bytes:
        return orjson.dumps(
            {"time": self._now(), "request_id": phases.request_id, **facts_of(phases)}, option=orjson.OPT_APPEND_NEWLINE
        )

    def _quick_line(self, phases: RequestTrace) -> bytes:
        """Return what `_line` does for a request that a network answered, in half the time."""
        job = phases.job
        assert job is not None  # a network answered it
        extra = "" if phases.identity is None else f',"id":{orjson.dumps(phases.identity).decode()}'
        if phases.key is not None:
            extra += f',"key":{orjson.dumps(_describe(phases.key)).decode()}'
        if phases.trace_id is not None:
            extra += f',"trace_id":"{phases.trace_id}"'
        return _LINE.format(
            self._now(),
            phases.request_id,
            phases.path,
            1000 * (phases.ended - phases.started),
            phases.model,
            phases.version,
            extra,
            job.weight,
            1000 * (phases.decoded - phases.received),
            1000 * (job.started_at - job.queued_at),
            1000 * (job.run_at - job.started_at),
            1000 * (job.ended_at - job.run_at),
            1000 * (phases.encoded - job.ended_at),
        ).encode()

    def flush(self) -> None:
        """Write what is kept; a full disk loses lines, never requests."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        data, self._lines, self._size = b"".join(self._lines), [], 0
        try:
            self._file.write(data)
        except OSError as error:
            if monotonic() >= self._quiet_until:
                self._quiet_until = monotonic() + QUIET_S
                text = "The access log cannot be written, and lines are lost: %s. (Said once a minute.)"
                logging.getLogger(__name__).error(text, error.strerror)

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

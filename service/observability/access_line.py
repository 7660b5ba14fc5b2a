"""The lines of the access log: the fields of a request as JSON, or as text for a terminal."""

from __future__ import annotations

import multiprocessing
import os
from datetime import UTC, datetime
from time import time
from typing import Any, Protocol

import orjson

from normfold.service.auth.key_file import Key
from normfold.service.observability.request_trace import RequestTrace

ACCESS_LOGGER = "normfold.access"
"""Name of the logger of access lines; also its value in the field `logger`."""

_INFERENCE = (
    '{"time":"%s%s,%s"request_id":"%s","method":"POST","path":"%s","status":200,"ms":%.3f,"model":"%s","version":%d%s,'
    '"rows":%d,"decode_ms":%.3f,"queue_ms":%.3f,"wait_ms":%.3f,"run_ms":%.3f,"encode_ms":%.3f}\n'
)


class LineFormat(Protocol):
    """Makes the line of a request."""

    def __call__(self, trace: RequestTrace) -> bytes:
        """Return the line of a request that was answered, with its newline."""


def log_fields(trace: RequestTrace) -> dict[str, Any]:
    """Return the fields of a line: method, path, status, model, client, key, trace, milliseconds of each phase."""
    facts: dict[str, Any] = {"method": trace.method, "path": trace.path, "status": trace.status}
    facts["ms"] = _ms(trace.started, trace.ended)
    if trace.model:
        facts["model"] = trace.model
    if trace.version:
        facts["version"] = trace.version
    if trace.client_request_id is not None:
        facts["id"] = trace.client_request_id
    if trace.client is not None:
        facts["client"] = trace.client
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


def summary(trace: RequestTrace) -> str:
    """Return `METHOD path status in 1.2 ms`; what a client wrote into the path cannot end the line."""
    milliseconds = 1000 * (trace.ended - trace.started)
    return f"{trace.method} {printable(trace.path)} {trace.status} in {milliseconds:.1f} ms"


def printable(path: str) -> str:
    """Return a path, with escapes where a client put characters into it that a terminal would act on."""
    return path if path.isprintable() else repr(path)


def format_text(trace: RequestTrace) -> bytes:
    """Return the line of a request as the service's log has it on a terminal."""
    return f"{datetime.now().astimezone():%H:%M:%S} INFO    {summary(trace)}\n".encode(errors="backslashreplace")


class JsonFormat:
    """Makes lines of JSON.

    Args:
        of_service_log: add what every line of the service's log has: level, logger, message, and `worker` (the
            process id) of several workers. Without it, a line has the fields of the request alone.
    """

    def __init__(self, *, of_service_log: bool = False) -> None:
        self._of_service_log = of_service_log
        self._zone = "+00:00" if of_service_log else "Z"
        self._worker = os.getpid() if multiprocessing.parent_process() is not None else None
        self._head = f'"level":"info","logger":"{ACCESS_LOGGER}","message":"POST %s 200 in %.1f ms",'
        if self._worker is not None:
            self._head += f'"worker":{self._worker},'
        self._second, self._prefix = 0, ""

    def __call__(self, trace: RequestTrace) -> bytes:
        """Return the line of a request."""
        if trace.status == 200 and trace.queued_request is not None:
            return self.format_inference(trace)
        return self.format_any(trace)

    def format_any(self, trace: RequestTrace) -> bytes:
        """Return the line of any request."""
        fields: dict[str, Any] = {"time": f"{self._now()}{self._zone}"}
        facts = log_fields(trace)
        if self._of_service_log:
            fields |= {"level": "info", "logger": ACCESS_LOGGER, "message": summary(trace)}
            if self._worker is not None:
                fields["worker"] = self._worker
            facts["path"] = printable(trace.path)
        return orjson.dumps(fields | {"request_id": trace.request_id} | facts, option=orjson.OPT_APPEND_NEWLINE)

    def format_inference(self, trace: RequestTrace) -> bytes:
        """Return the same as `format_any` for a request that a network answered, in half the time."""
        queued = trace.queued_request
        assert queued is not None  # the caller has checked it
        extra = "" if trace.client_request_id is None else f',"id":{orjson.dumps(trace.client_request_id).decode()}'
        if trace.client is not None:
            extra += f',"client":"{trace.client}"'
        if trace.key is not None:
            extra += f',"key":{orjson.dumps(_describe(trace.key)).decode()}'
        if trace.trace_id is not None:
            extra += f',"trace_id":"{trace.trace_id}"'
        milliseconds = 1000 * (trace.ended - trace.started)
        fields = (
            self._now(),
            self._zone + '"',
            self._head % (trace.path, milliseconds) if self._of_service_log else "",
            trace.request_id,
            trace.path,
            milliseconds,
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
        return (_INFERENCE % fields).encode()

    def _now(self) -> str:
        now = time()
        second = int(now)
        if second != self._second:
            self._second, self._prefix = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._prefix}.{int(1000 * (now - second)):03d}"


def _describe(key: Key) -> dict[str, str]:
    return {"id": key.id, "name": key.name}


def _ms(start: float, end: float) -> float:
    return round(1000 * (end - start), 3)

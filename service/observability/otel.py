"""A request's spans, for OpenTelemetry.

    POST /v2/models/{model}/infer     kind SERVER, child of the span that `traceparent` names
    ├── decode
    ├── queue
    ├── run                           normfold.batch_rows: rows that ran together, its own included
    └── encode

They are made after the answer, from the times that `service.observability.request_trace` holds of the request anyway,
and sent from a thread of OpenTelemetry's, out of a bounded queue: a collector that is slow or gone costs spans, never
requests. Names and attributes are those of OpenTelemetry's semantic conventions for HTTP servers; ours begin with
`normfold.`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from importlib.metadata import version
from time import monotonic, perf_counter, time_ns
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from normfold.service.observability.request_trace import CLIENT_DISCONNECTED, RequestTrace

FLUSH_TIMEOUT_S = 2.0
"""How long the end of the process waits for spans that are still to be sent; OpenTelemetry's own bound is 30 s."""

QUIET_S = 60.0
"""At most one line of OpenTelemetry's own comes into the log in this time."""

_LONGEST_STATE = 512
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})

RawHeaders = Iterable[tuple[bytes, bytes]]
"""The headers of a request as they came."""

logger = logging.getLogger(__name__)


class Spans:
    """Makes spans of requests. The event loop alone calls it.

    Args:
        exporter: where they go.

    Raises:
        ValueError: OpenTelemetry refuses one of its variables.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        _limit_lines()
        named = {SERVICE_NAME: "normfold", SERVICE_VERSION: version("normfold")}
        resource = Resource.create(named | dict(OTELResourceDetector().detect().attributes))
        self._exporter, self._ids = exporter, _Ids()
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("normfold", version("normfold"))
        self._parents = TraceContextTextMapPropagator()

    def new_trace_id(self) -> str:
        """Return the number of a trace that begins here, as 32 hexadecimal digits."""
        return os.urandom(16).hex()

    def record(self, phases: RequestTrace, headers: RawHeaders, scheme: str | None, route: str | None) -> None:
        """Make the spans of a request that was answered, or whose client left."""
        offset = time_ns() - int(1e9 * perf_counter())  # anew each time: the wall clock may be set
        status = phases.status
        method = phases.method if phases.method in _METHODS else "HTTP"
        self._ids.trace_id = phases.trace_id
        span = self._tracer.start_span(
            f"{method} {route}" if route else method,
            self._parent(headers),
            SpanKind.SERVER,
            _attributes(phases, scheme, route),
            start_time=_wall(phases.started, offset),
        )
        if span.is_recording():
            if status >= 500:
                span.set_status(StatusCode.ERROR)
            self._record_trace(phases, set_span_in_context(span, Context()), offset)
        span.end(_wall(phases.ended, offset))

    def flush(self) -> None:
        """Send what waits, in this thread."""
        self._provider.force_flush()

    def close(self) -> None:
        """Send what waits, within FLUSH_TIMEOUT_S; what a collector has not taken by then is lost."""
        thread = threading.Thread(target=self._provider.shutdown, name="normfold-spans", daemon=True)
        thread.start()
        thread.join(FLUSH_TIMEOUT_S)
        if thread.is_alive():
            logger.warning("The last spans were not taken within %g s; they are lost.", FLUSH_TIMEOUT_S)
            self._exporter.shutdown()  # tries no further

    def _parent(self, headers: RawHeaders) -> Context:
        """Return what the request's headers say of the span that caused it; nothing if they are malformed."""
        carrier: dict[str, str] = {}
        for name, value in headers:
            if name == b"traceparent":
                carrier["traceparent"] = value.decode("latin-1")
            elif name == b"tracestate":  # may come in several parts
                carrier["tracestate"] = ",".join(filter(None, (carrier.get("tracestate"), value.decode("latin-1"))))
        if len(carrier.get("tracestate", "")) > _LONGEST_STATE:
            del carrier["tracestate"]
        return self._parents.extract(carrier, Context())

    def _record_trace(self, phases: RequestTrace, parent: Context, offset: int) -> None:
        """Make a span of each phase that the request came to; the one that it ended in lasts until its end."""
        job, end = phases.job, phases.ended
        spans: list[tuple[str, float, float, dict[str, Any]]] = []
        if phases.received:
            spans.append(("decode", phases.received, phases.decoded or end, {}))
        if job is not None and job.queued_at:
            spans.append(("queue", job.queued_at, job.started_at or end, {}))
            if job.started_at:
                facts = {"normfold.batch_rows": job.batch_rows} if job.batch_rows else {}
                spans.append(("run", job.run_at or job.started_at, job.ended_at or end, facts))
            if job.ended_at:
                spans.append(("encode", job.ended_at, phases.encoded or end, {}))
        for name, start, stop, facts in spans:
            span = self._tracer.start_span(name, parent, attributes=facts, start_time=_wall(start, offset))
            span.end(_wall(stop, offset))


class _Ids(RandomIdGenerator):
    """Gives a trace that begins here the number that the log's lines of the request have already."""

    trace_id: str | None = None

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if self.trace_id is None else int(self.trace_id, 16)


class _OneLine(logging.Handler):
    """Passes a line on to our own logger, and then none for a while: a collector that is gone would cause many."""

    def __init__(self) -> None:
        super().__init__()
        self._quiet_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_S
            text = "OpenTelemetry says: %s (Further lines of its own are left out for %g s.)"
            logger.log(record.levelno, text, record.getMessage(), QUIET_S)


def _limit_lines() -> None:
    """Let OpenTelemetry's own lines come into the log now and then, for all of the process."""
    source = logging.getLogger("opentelemetry")
    if not any(isinstance(handler, _OneLine) for handler in source.handlers):
        source.addHandler(_OneLine())
        source.propagate = False


def _attributes(phases: RequestTrace, scheme: str | None, route: str | None) -> dict[str, Any]:
    """Return what a request's span says; a query is left out, since nobody knows what is in it."""
    known = phases.method in _METHODS
    found: dict[str, Any] = {
        "http.request.method": phases.method if known else "_OTHER",
        "http.request.method_original": None if known else phases.method,
        "url.path": phases.path,
        "url.scheme": scheme,
        "http.route": route,
        "http.response.status_code": None if phases.status == CLIENT_DISCONNECTED else phases.status,
        "normfold.request_id": phases.request_id,
        "normfold.model": phases.model or None,
        "normfold.version": phases.version or None,
        "normfold.rows": phases.job and phases.job.weight,
    }
    if phases.status == CLIENT_DISCONNECTED:
        found["error.type"] = "client_left"
    elif phases.status >= 500:
        found["error.type"] = str(phases.status)
    return {name: value for name, value in found.items() if value is not None}


def _wall(seconds: float, offset: int) -> int:
    """Return a time of perf_counter's clock as nanoseconds since 1970."""
    return int(1e9 * seconds) + offset

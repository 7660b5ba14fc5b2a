"""A request's spans, for OpenTelemetry.

    POST /v2/models/{model}/infer     kind SERVER, child of the span that `traceparent` names
    ├── decode
    ├── queue
    ├── run                           normfold.batch_rows: rows that ran together, its own included
    └── encode

They are made after the response, from the times of the request's `RequestTrace`, and exported by a thread of
OpenTelemetry's, from a bounded queue: a slow or absent collector loses spans and delays no request. Names and
attributes follow OpenTelemetry's semantic conventions for HTTP servers; Normfold's own begin with `normfold.`.
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
"""Seconds that the shutdown waits for the last spans to be sent; OpenTelemetry's own bound is 30 s."""

REPEAT_AFTER_S = 60.0
"""Seconds between two log lines of OpenTelemetry's own."""

_MAX_TRACESTATE_BYTES = 512
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})

RawHeaders = Iterable[tuple[bytes, bytes]]
"""The headers of a request, in order and with duplicates."""

logger = logging.getLogger(__name__)


class Spans:
    """Makes the spans of requests. The event loop alone calls it.

    Args:
        exporter: sends them.

    Raises:
        ValueError: OpenTelemetry rejects one of its variables.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        _limit_log_lines()
        named = {SERVICE_NAME: "normfold", SERVICE_VERSION: version("normfold")}
        resource = Resource.create(named | dict(OTELResourceDetector().detect().attributes))
        self._exporter, self._ids = exporter, _Ids()
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("normfold", version("normfold"))
        self._parents = TraceContextTextMapPropagator()

    def new_trace_id(self) -> str:
        """Return the id of a trace that begins here, 32 hexadecimal digits."""
        return os.urandom(16).hex()

    def record(self, trace: RequestTrace, headers: RawHeaders, scheme: str | None, route: str | None) -> None:
        """Make the spans of a request that was answered, or whose client disconnected.

        Args:
            trace: the request.
            headers: `traceparent` and `tracestate` name its parent span.
            scheme: http or https.
            route: template of its path; None for an unknown path.
        """
        offset = time_ns() - int(1e9 * perf_counter())  # computed each time: the wall clock may be set
        status = trace.status
        method = trace.method if trace.method in _METHODS else "HTTP"
        self._ids.trace_id = trace.trace_id
        span = self._tracer.start_span(
            f"{method} {route}" if route else method,
            self._parent(headers),
            SpanKind.SERVER,
            _attributes(trace, scheme, route),
            start_time=_wall(trace.started, offset),
        )
        if span.is_recording():
            if status >= 500:
                span.set_status(StatusCode.ERROR)
            self._record_trace(trace, set_span_in_context(span, Context()), offset)
        span.end(_wall(trace.ended, offset))

    def flush(self) -> None:
        """Send the spans that wait, in this thread."""
        self._provider.force_flush()

    def close(self) -> None:
        """Send the spans that wait; those that the collector has not accepted within FLUSH_TIMEOUT_S are lost."""
        thread = threading.Thread(target=self._provider.shutdown, name="normfold-spans", daemon=True)
        thread.start()
        thread.join(FLUSH_TIMEOUT_S)
        if thread.is_alive():
            logger.warning("The collector did not accept the last spans within %g s; they are lost.", FLUSH_TIMEOUT_S)
            self._exporter.shutdown()  # stops its retries

    def _parent(self, headers: RawHeaders) -> Context:
        """Return the context of the parent span that the request's headers name; an empty one if they are malformed."""
        carrier: dict[str, str] = {}
        for name, value in headers:
            if name == b"traceparent":
                carrier["traceparent"] = value.decode("latin-1")
            elif name == b"tracestate":  # may be given in several headers
                carrier["tracestate"] = ",".join(filter(None, (carrier.get("tracestate"), value.decode("latin-1"))))
        if len(carrier.get("tracestate", "")) > _MAX_TRACESTATE_BYTES:
            del carrier["tracestate"]
        return self._parents.extract(carrier, Context())

    def _record_trace(self, trace: RequestTrace, parent: Context, offset: int) -> None:
        """Make a span of each phase that the request reached; the last one lasts until the request's end."""
        queued, end = trace.queued_request, trace.ended
        spans: list[tuple[str, float, float, dict[str, Any]]] = []
        if trace.received:
            spans.append(("decode", trace.received, trace.decoded or end, {}))
        if queued is not None and queued.queued_at:
            spans.append(("queue", queued.queued_at, queued.batched_at or end, {}))
            if queued.batched_at:
                facts = {"normfold.batch_rows": queued.batch_rows} if queued.batch_rows else {}
                spans.append(("run", queued.run_started_at or queued.batched_at, queued.run_ended_at or end, facts))
            if queued.run_ended_at:
                spans.append(("encode", queued.run_ended_at, trace.encoded or end, {}))
        for name, start, stop, facts in spans:
            span = self._tracer.start_span(name, parent, attributes=facts, start_time=_wall(start, offset))
            span.end(_wall(stop, offset))


class _Ids(RandomIdGenerator):
    """Gives a trace that begins here the id that the request's log lines carry."""

    trace_id: str | None = None

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if self.trace_id is None else int(self.trace_id, 16)


class _LimitedHandler(logging.Handler):
    """Passes at most one line in REPEAT_AFTER_S to the service's log: an absent collector would cause many."""

    def __init__(self) -> None:
        super().__init__()
        self._silent_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = monotonic()
        if now >= self._silent_until:
            self._silent_until = now + REPEAT_AFTER_S
            text = "OpenTelemetry: %s (Its further lines are left out for %g s.)"
            logger.log(record.levelno, text, record.getMessage(), REPEAT_AFTER_S)


def _limit_log_lines() -> None:
    """Limit the log lines of OpenTelemetry, for the whole process."""
    source = logging.getLogger("opentelemetry")
    if not any(isinstance(handler, _LimitedHandler) for handler in source.handlers):
        source.addHandler(_LimitedHandler())
        source.propagate = False


def _attributes(trace: RequestTrace, scheme: str | None, route: str | None) -> dict[str, Any]:
    """Return the attributes of a request's span, without the query string, which may hold anything."""
    known = trace.method in _METHODS
    found: dict[str, Any] = {
        "http.request.method": trace.method if known else "_OTHER",
        "http.request.method_original": None if known else trace.method,
        "url.path": trace.path,
        "url.scheme": scheme,
        "http.route": route,
        "http.response.status_code": None if trace.status == CLIENT_DISCONNECTED else trace.status,
        "normfold.request_id": trace.request_id,
        "normfold.model": trace.model or None,
        "normfold.version": trace.version or None,
        "normfold.rows": trace.queued_request and trace.queued_request.rows,
    }
    if trace.status == CLIENT_DISCONNECTED:
        found["error.type"] = "client_disconnected"
    elif trace.status >= 500:
        found["error.type"] = str(trace.status)
    return {name: value for name, value in found.items() if value is not None}


def _wall(seconds: float, offset: int) -> int:
    """Return a time on the clock of perf_counter as nanoseconds since 1970."""
    return int(1e9 * seconds) + offset

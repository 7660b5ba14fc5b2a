"""The steps of a request, in one place for every protocol that carries requests.

    begin ─▶ authorize ─▶ admit ─▶ decode ─▶ enqueue ─▶ (the model runs) ─▶ encode, compress ─▶ end
                  └──────────┴─────────┴─────────┴── fail ──────────────────────┴────────────────▶ end

`RequestSteps` holds those of every request, `InferCall` adds those of an infer request. They know neither connections
nor ASGI; `service.inference.asgi`, `service.inference.fast_path` and `service.http.middleware` adapt them.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import Token
from time import perf_counter
from typing import TYPE_CHECKING

from normfold.contract.errors import NormfoldError
from normfold.service.auth.authorization import Authorizer
from normfold.service.codec.headers import Headers
from normfold.service.error_responses import describe_error, describe_fault, log_fault
from normfold.service.inference.model_ref import ModelRef
from normfold.service.inference.response import JSON_TYPE, Response
from normfold.service.logs import REQUEST_ID, TRACE_ID
from normfold.service.observability.request_trace import RequestTrace
from normfold.service.observability.telemetry import Telemetry
from normfold.service.observability.trace_context import read_trace_id
from normfold.service.repository.loaded_model import Model
from normfold.service.repository.repository import Repository
from normfold.service.rollout.rollouts import Rollouts

if TYPE_CHECKING:
    from normfold.service.observability.otel import Spans


class RequestSteps:
    """The steps of every request, whatever it asks for.

    Args:
        telemetry: counts and times requests, and writes the access log.
        authorizer: checks keys; None if no key is needed.
        spans: exports traces; None if requests are not traced.
    """

    def __init__(self, telemetry: Telemetry, authorizer: Authorizer | None = None, spans: Spans | None = None) -> None:
        self._telemetry, self._authorizer, self._spans = telemetry, authorizer, spans

    def begin(self, method: str, path: str, headers: Headers, started: float | None = None) -> RequestTrace:
        """Begin the trace of a request, and count the request as in flight until `end`.

        Args:
            method: HTTP method.
            path: decoded, without the query.
            headers: the request's; `traceparent` and `x-request-id` are read.
            started: when the headers were complete, on the clock of perf_counter; now if None.
        """
        telemetry = self._telemetry
        trace = RequestTrace(
            telemetry.request_id(headers),
            method=method,
            path=path,
            started=perf_counter() if started is None else started,
        )
        if b"traceparent" in headers:
            trace.trace_id = read_trace_id(headers[b"traceparent"])
        if self._spans is not None and trace.trace_id is None:
            trace.trace_id = self._spans.new_trace_id()
        telemetry.in_flight += 1
        return trace

    def authorize(self, trace: RequestTrace, headers: Headers) -> None:
        """Check the key of a request; its trace gets the key.

        Raises:
            UnauthenticatedError, ScopeError, RateError, UnknownPathError: the request is not allowed.
        """
        if self._authorizer is not None and (error := self._authorizer.check(trace.path, headers, trace)) is not None:
            raise error

    def end(
        self,
        trace: RequestTrace,
        headers: Iterable[tuple[bytes, bytes]] = (),
        scheme: str | None = None,
        route: str | None = None,
    ) -> None:
        """Count a request whose response is complete, write its access log line, and export its spans.

        Args:
            trace: the request's.
            headers: the request's as they came; `traceparent` and `tracestate` name the parent of its span.
            scheme: http or https.
            route: the pattern that the path matched.
        """
        self._telemetry.in_flight -= 1
        self._telemetry.record(trace)
        if self._spans is not None:
            self._spans.record(trace, headers, scheme, route)


def admit(repository: Repository, reference: ModelRef, trace: RequestTrace) -> Model:
    """Return the model of a request, if its queue is not full; the trace gets its name and version.

    Raises:
        UnknownModelError, ModelUnavailableError: no model can serve the request.
        QueueFullError: the model's queue is full.
    """
    model = repository.find(reference.model, reference.version)
    trace.model, trace.version = model.manifest.name, model.manifest.version
    model.batcher.require_capacity()
    return model


def choose_version(rollouts: Rollouts, model: Model, trace: RequestTrace) -> Model:
    """Return the version that answers a request which names none: the one that serves, or for its share the canary.

    The same id, that of the request's body or else its X-Request-Id, always gets the same version. The trace gets it.
    """
    chosen = rollouts.choose(model, trace.client_request_id or trace.request_id)
    trace.version = chosen.version
    return chosen


def fail(trace: RequestTrace, error: Exception) -> Response:
    """Return the response to an error; one that is not in the table of statuses is a fault: it is logged, status 500.

    The trace gets the status.
    """
    described = describe_error(error, trace.client_request_id) if isinstance(error, NormfoldError) else None
    if described is None:
        log_fault(trace.method, trace.path, error)
        described = describe_fault(trace.client_request_id)
    trace.status, body, headers = described
    request_id = (b"x-request-id", trace.request_id.encode())
    return Response(trace.status, [JSON_TYPE, request_id, (b"content-length", b"%d" % len(body)), *headers], (body,))


def enter_log_context(trace: RequestTrace) -> Token[str | None]:
    """Put a request's id and trace id into every log line from here on; `leave_log_context` takes the token."""
    if trace.trace_id is not None:
        TRACE_ID.set(trace.trace_id)
    return REQUEST_ID.set(trace.request_id)


def leave_log_context(token: Token[str | None], trace: RequestTrace) -> None:
    """Undo `enter_log_context`."""
    REQUEST_ID.reset(token)
    if trace.trace_id is not None:
        TRACE_ID.set(None)

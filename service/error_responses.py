"""From an error to an HTTP response: the table of statuses, and FastAPI's exception handlers.

The body of every response that is not a success is {"error": "one sentence"}; if the request has an id, the sentence
begins with `[request id: ID] `. An error that is not in the table is a fault of the service: status 500, its traceback
in the log only.
"""

from __future__ import annotations

import logging

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from normfold.contract.bundle import DamagedBundleError
from normfold.contract.errors import (
    CheckError,
    InputError,
    MissingPackageError,
    NormfoldError,
    RawInputError,
    SetupError,
    WriteError,
)
from normfold.contract.onnxruntime_package import RuntimePackageError
from normfold.contract.record import ManifestError
from normfold.service.errors import (
    AddressError,
    AmbiguousRequestError,
    BodyBudgetError,
    BodyTooLargeError,
    BundleLoadError,
    CallLimitError,
    ClientDisconnectedError,
    ConnectionLimitError,
    ContentEncodingError,
    ControlError,
    DeadlineError,
    FailingTensorsError,
    ForeignHostError,
    ForeignOriginError,
    HeadersTooLargeError,
    InvalidRequestError,
    KeysError,
    KeysUnwritableError,
    MalformedRequestError,
    ModelUnavailableError,
    NoRolloutError,
    NoSamplesError,
    ProviderError,
    QueueFullError,
    RateError,
    ReceiveTimeoutError,
    RequestError,
    ResponseBudgetError,
    ResponseTooLargeError,
    RolloutError,
    RunError,
    ScopeError,
    ServingError,
    SettingsError,
    SocketActivationError,
    StateDirError,
    StoppingError,
    TlsError,
    UnauthenticatedError,
    UnixSocketError,
    UnknownModelError,
    UnknownPathError,
    UnloadedError,
    UnsuitableModelError,
    UnwritableOutputError,
)
from normfold.service.logs import REQUEST_ID

logger = logging.getLogger(__name__)

STATUS: dict[type[NormfoldError], int] = {
    RequestError: 400,
    InvalidRequestError: 400,
    RawInputError: 400,
    MalformedRequestError: 400,
    AmbiguousRequestError: 400,
    UnsuitableModelError: 400,
    RolloutError: 400,
    ResponseTooLargeError: 400,
    UnauthenticatedError: 401,
    ControlError: 403,
    ScopeError: 403,
    ForeignOriginError: 403,
    ForeignHostError: 403,
    UnknownModelError: 404,
    UnknownPathError: 404,
    NoSamplesError: 404,
    NoRolloutError: 404,
    ReceiveTimeoutError: 408,
    BodyTooLargeError: 413,
    ContentEncodingError: 415,
    FailingTensorsError: 422,
    UnwritableOutputError: 422,
    RateError: 429,
    HeadersTooLargeError: 431,
    ClientDisconnectedError: 499,  # in logs and metrics only: no response is sent
    ServingError: 500,
    RunError: 500,
    ModelUnavailableError: 503,
    ConnectionLimitError: 503,
    CallLimitError: 503,
    QueueFullError: 503,
    BodyBudgetError: 503,
    ResponseBudgetError: 503,
    UnloadedError: 503,
    StoppingError: 503,
    DeadlineError: 504,
}

WITHOUT_STATUS: frozenset[type[NormfoldError]] = frozenset(
    {  # at start they end the command; while a model loads they become the reason of a ModelUnavailableError
        *(NormfoldError, InputError, CheckError, SetupError, MissingPackageError, WriteError),
        *(SettingsError, AddressError, ProviderError, RuntimePackageError),
        *(BundleLoadError, DamagedBundleError, ManifestError),
        *(KeysError, KeysUnwritableError, StateDirError, TlsError, UnixSocketError, SocketActivationError),
    }
)
"""Errors that never end a request."""

METHOD_KEY = "normfold.method"
"""Key in the ASGI scope of the request's own method, where the application sees another one: GET for HEAD."""

Described = tuple[int, bytes, list[tuple[bytes, bytes]]]
"""Status, JSON body, and headers besides those of every response."""

_CLOSING = (BodyTooLargeError, MalformedRequestError, AmbiguousRequestError, HeadersTooLargeError, ReceiveTimeoutError)
"""After these the rest of the request is not read, so that the connection cannot be kept."""

_RETRIABLE = (ConnectionLimitError, CallLimitError, QueueFullError, BodyBudgetError, ResponseBudgetError, RateError)


def describe_error(error: NormfoldError, client_request_id: str | None = None) -> Described | None:
    """Return the response to an error; one with status 500 is logged.

    Args:
        error: any error of the service.
        client_request_id: the id that the request has in its body.

    Returns:
        The response; None if the error is not in STATUS, which makes it a fault of the service.
    """
    status = STATUS.get(type(error))
    if status is None:
        return None
    if status == 500:
        logger.error("%s", getattr(error, "detail", error), exc_info=error.__cause__)
    if isinstance(error, FailingTensorsError):
        logger.warning("The network fails on the tensors of a request: %s", error.detail)
    headers = []
    if isinstance(error, (*_CLOSING, ConnectionLimitError)):
        headers.append((b"connection", b"close"))
    if isinstance(error, UnauthenticatedError):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, ContentEncodingError):
        headers.append((b"accept-encoding", error.accepted.encode()))
    if isinstance(error, _RETRIABLE):
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    return status, _error_body(str(error), client_request_id), headers


def describe_fault(client_request_id: str | None = None) -> Described:
    """Return the response to a fault of the service: where to find the reason, and nothing of it."""
    text = f"The service failed unexpectedly; its log has the reason under the request id {REQUEST_ID.get()}."
    return 500, _error_body(text, client_request_id), []


def log_fault(method: str, path: str, error: Exception) -> None:
    """Log a fault of the service with its traceback."""
    logger.error("%s %s failed unexpectedly.", method, path, exc_info=error)


def error_response(text: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """Return a Starlette response in the form of every error."""
    return JSONResponse({"error": text}, status, headers)


def install_handlers(app: FastAPI) -> None:
    """Let the app's routes respond to errors in the form of every error."""
    app.add_exception_handler(NormfoldError, _respond_to_error)
    app.add_exception_handler(HTTPException, _respond_to_http_exception)
    app.add_exception_handler(ClientDisconnect, _note_disconnected)
    app.add_exception_handler(Exception, _respond_to_fault)


def _error_body(text: str, client_request_id: str | None) -> bytes:
    prefix = f"[request id: {client_request_id}] " if client_request_id else ""
    return orjson.dumps({"error": prefix + text})


def _respond(described: Described) -> Response:
    status, body, headers = described
    extra = {name.decode(): value.decode() for name, value in headers}
    return Response(body, status, extra, media_type="application/json")


async def _respond_to_error(_: Request, error: Exception) -> Response:
    described = describe_error(error) if isinstance(error, NormfoldError) else None
    if described is None:
        raise error  # a fault: Starlette passes it to _respond_to_fault
    return _respond(described)


async def _note_disconnected(_: Request, __: Exception) -> Response:
    """Return a response with the status for logs and metrics; the client does not receive it."""
    return Response(status_code=STATUS[ClientDisconnectedError])


async def _respond_to_fault(request: Request, error: Exception) -> Response:
    """Log a fault and respond to it; Starlette raises the error again after the response."""
    log_fault(request.scope["method"], request.scope["path"], error)
    return _respond(describe_fault())


async def _respond_to_http_exception(request: Request, error: Exception) -> Response:
    """Respond to what the framework raises: no route for the path, or another method."""
    assert isinstance(error, HTTPException)
    path, method = request.scope["path"], request.scope.get(METHOD_KEY, request.scope["method"])
    headers = dict(error.headers or {})
    if error.status_code == 404:
        text = str(UnknownPathError(path))
    elif error.status_code == 405:
        methods = set(headers.get("Allow", "").split(", "))
        headers["Allow"] = allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
        text = f"The path {path!r} does not support {method}; it supports {allowed}."
    else:
        text = str(error.detail)
    return error_response(text, error.status_code, headers=headers)

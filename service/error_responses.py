"""From an error to an HTTP answer: the one table of statuses, and the handlers that use it.

Every answer that is not a success has a JSON body {"error": "one sentence"}; for a request that carried an id the
sentence begins with `[request id: ID] `. What is not in the table is a fault of ours: status 500, and the traceback in
the log alone.
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
)
from normfold.contract.record import ManifestError
from normfold.contract.runtime import RuntimePackageError
from normfold.service.errors import (
    AddressError,
    BodyBudgetError,
    BodyTooLargeError,
    BundleError,
    ClientDisconnectedError,
    ControlError,
    DeadlineError,
    InvalidRequestError,
    KeysError,
    KeysUnwritableError,
    ModelUnavailableError,
    NoSamplesError,
    ProviderError,
    QueueFullError,
    RateError,
    RequestError,
    ResponseBudgetError,
    ResponseTooLargeError,
    RunError,
    ScopeError,
    ServingError,
    SettingsError,
    UnauthenticatedError,
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
    UnsuitableModelError: 400,
    UnauthenticatedError: 401,
    ControlError: 403,
    ScopeError: 403,
    ResponseTooLargeError: 400,
    UnknownModelError: 404,
    UnknownPathError: 404,
    NoSamplesError: 404,
    BodyTooLargeError: 413,
    RateError: 429,
    ServingError: 500,
    RunError: 500,
    UnwritableOutputError: 500,
    ClientDisconnectedError: 499,  # for the log: no status of HTTP says so
    ModelUnavailableError: 503,
    QueueFullError: 503,
    BodyBudgetError: 503,
    ResponseBudgetError: 503,
    UnloadedError: 503,
    DeadlineError: 504,
}

NEVER_ANSWERED: frozenset[type[NormfoldError]] = frozenset(
    {  # at start they end the command; while loading they become the reason of a ModelUnavailableError
        *(NormfoldError, InputError, CheckError, SetupError, MissingPackageError),
        *(SettingsError, AddressError, ProviderError, RuntimePackageError),
        *(BundleError, DamagedBundleError, ManifestError),
        *(KeysError, KeysUnwritableError),
    }
)


def install(app: FastAPI) -> None:
    """Let the app answer every error in the one form."""
    app.add_exception_handler(NormfoldError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(ClientDisconnect, _note_disconnected)
    app.add_exception_handler(Exception, _answer_fault)


def error_response(text: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """Return an answer of the one form that all errors have."""
    return JSONResponse({"error": text}, status, headers)


def error_body(text: str) -> bytes:
    """Return the body that all errors have."""
    return orjson.dumps({"error": text})


def describe_error(error: NormfoldError, identity: str | None) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """Return the status, the body and the further headers of the answer to an error; what is ours is logged.

    Raises:
        NormfoldError: the error itself, if no answer is foreseen: the middleware logs it and answers 500.
    """
    status = STATUS.get(type(error))
    if status is None:
        raise error
    if status == 500:
        logger.error("%s", getattr(error, "detail", error), exc_info=error.__cause__)
    headers = []
    if isinstance(error, BodyTooLargeError):
        headers.append((b"connection", b"close"))  # the rest of the body is never read
    if isinstance(error, UnauthenticatedError):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, QueueFullError | BodyBudgetError | ResponseBudgetError | RateError):
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    prefix = f"[request id: {identity}] " if identity else ""
    return status, error_body(prefix + str(error)), headers


async def _answer_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, NormfoldError):
        raise error  # unexpected: the middleware logs it and answers 500
    status, body, headers = describe_error(error, None)
    extra = {name.decode(): value.decode() for name, value in headers}
    return Response(body, status, extra, media_type="application/json")


async def _note_disconnected(_: Request, __: Exception) -> Response:
    """Let the status be noted; nobody reads it."""
    return Response(status_code=STATUS[ClientDisconnectedError])


def describe_fault(identity: str | None = None) -> str:
    """Return what a client is told of a fault of ours: where to look, and no more."""
    prefix = f"[request id: {identity}] " if identity else ""
    return f"{prefix}The service failed unexpectedly; its log has the reason under the request id {REQUEST_ID.get()}."


def log_fault(method: str, path: str, error: Exception) -> None:
    """Log what nobody foresaw, with its traceback."""
    logger.error("%s %s failed unexpectedly.", method, path, exc_info=error)


async def _answer_fault(request: Request, error: Exception) -> Response:
    """Log and answer what nobody foresaw; the framework raises it again behind the answer."""
    log_fault(request.scope["method"], request.scope["path"], error)
    return error_response(describe_fault(), 500)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """Answer what the framework raises: no such path, wrong method."""
    assert isinstance(error, HTTPException)
    path, method = request.scope["path"], request.scope["method"]
    if error.status_code == 404:
        text = str(UnknownPathError(path))
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        text = f"The path {path!r} does not take {method}; it takes {allowed}."
    else:
        text = str(error.detail)
    return error_response(text, error.status_code, headers=dict(error.headers or {}))

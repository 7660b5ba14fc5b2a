"""From an error to an HTTP answer: the one table of statuses, and the handlers that use it.

Every answer that is not a success has a JSON body {"error": "one sentence"}; for a request that carried an id the
sentence begins with `[request id: ID] `. What is not in the table is a fault of ours: status 500, and the traceback in
the log alone.
"""

from __future__ import annotations

import logging

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from contract.errors import CheckError, InputError, MissingPackageError, NormfoldError, SetupError
from contract.manifest import ManifestError
from contract.preprocess import RawInputError
from contract.runtime import RuntimePackageError
from service.errors import (
    AddressError,
    BodyTooLargeError,
    BundleError,
    ModelUnavailableError,
    ProviderError,
    RequestError,
    RunError,
    ServingError,
    SettingsError,
    UnknownModelError,
    UnsuitableModelError,
    UnwritableOutputError,
    WireError,
)

logger = logging.getLogger(__name__)

STATUS: dict[type[NormfoldError], int] = {
    RequestError: 400,
    WireError: 400,
    RawInputError: 400,
    UnsuitableModelError: 400,
    UnknownModelError: 404,
    BodyTooLargeError: 413,
    ServingError: 500,
    RunError: 500,
    UnwritableOutputError: 500,
    ModelUnavailableError: 503,
}

NEVER_ANSWERED: frozenset[type[NormfoldError]] = frozenset(
    {  # at start they end the command; while loading they become the reason of a ModelUnavailableError
        *(NormfoldError, InputError, CheckError, SetupError, MissingPackageError),
        *(SettingsError, AddressError, BundleError, ManifestError, ProviderError, RuntimePackageError),
    }
)

INFER_ID = "normfold.infer_id"
"""Key in the ASGI scope of the id that an infer request carried."""


def install(app: FastAPI) -> None:
    """Let the app answer every error in the one form."""
    app.add_exception_handler(NormfoldError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)


def error_response(
    text: str, status: int, scope_id: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """Return an answer of the one form that all errors have."""
    prefix = f"[request id: {scope_id}] " if scope_id else ""
    return JSONResponse({"error": prefix + text}, status, headers)


async def _answer_error(request: Request, error: Exception) -> Response:
    status = STATUS.get(type(error)) if isinstance(error, NormfoldError) else None
    if status is None:
        raise error  # unexpected: the middleware logs it and answers 500
    if status == 500:
        logger.error("%s", getattr(error, "detail", error), exc_info=error.__cause__)
    # The rest of a body that is too large is never read, so the connection cannot be used again.
    headers = {"Connection": "close"} if status == 413 else None
    return error_response(str(error), status, request.scope.get(INFER_ID), headers)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """Answer what the framework raises: no such path, wrong method."""
    assert isinstance(error, HTTPException)
    path, method = request.scope["path"], request.scope["method"]
    if error.status_code == 404:
        text = f"There is no path {path!r}; GET /docs describes those there are."
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        text = f"The path {path!r} does not take {method}; it takes {allowed}."
    else:
        text = str(error.detail)
    return error_response(text, error.status_code, headers=dict(error.headers or {}))

"""Adding routes: the responses of an operation, and paths of a model with and without a version."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from normfold.service.proxy.forwarding import FORWARDED_KEY, Forwarded
from normfold.service.repository.loaded_model import Model
from normfold.service.repository.repository import Repository
from normfold.service.routes.schemas import ref

Endpoint = Callable[[Request], Awaitable[Response]]

_ERRORS = {
    400: "The request is invalid.",
    401: "The request has no valid key.",
    403: "The key lacks the required scope, or the setting model_control does not allow it.",
    404: "No model or version has that name.",
    408: "The request did not arrive completely in time.",
    413: "The body is too large.",
    415: "The Content-Encoding of the body is not supported; the response has an Accept-Encoding.",
    422: "The network fails on these tensors, or an output has NaN or Infinity, which JSON cannot carry.",
    429: "The key is over its rate limit.",
    431: "The headers are too long.",
    500: "The service failed.",
    503: "Not available now: the model is not ready, its queue or a limit of the service is full, or it is stopping.",
    504: "The deadline of the request passed.",
}
_COMMON_STATUSES = (400, 408, 413, 431, 500, 503)
"""Statuses of errors that every operation can have."""

_REQUEST_ID = {"X-Request-Id": {"description": "Of the request, or a new one.", "schema": {"type": "string"}}}
_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds to wait before a retry; for a full queue, estimated from measured run times.",
        "schema": {"type": "integer", "minimum": 1},
    }
}


def _path_parameter(name: str, description: str, example: str) -> dict[str, Any]:
    described = {"name": name, "in": "path", "required": True, "description": description}
    return {**described, "schema": {"type": "string", "minLength": 1}, "example": example}


MODEL_PARAMETER = _path_parameter("model", "Name of the model.", "digits")
_VERSION_PARAMETER = _path_parameter("version", "Version of the model.", "1")


def describe_responses(
    schema: str | None,
    *errors: int,
    example: Any = None,
    content: dict[str, Any] | None = None,
    headers: dict[str, Any] | None = None,
) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of an operation.

    Args:
        schema: name of the response's schema in `service.routes.schemas`; None if it is not JSON.
        errors: statuses of errors, besides those of every operation.
        example: of the response.
        content: further media types of the response.
        headers: further headers of the response.
    """
    json: dict[str, Any] = {} if schema is None else {"application/json": {"schema": ref(schema)}}
    if example is not None:
        json["application/json"]["example"] = example
    success: dict[str, Any] = {"description": "Success.", "headers": {**_REQUEST_ID, **(headers or {})}}
    if json or content:
        success["content"] = {**json, **(content or {})}
    return {200: success, **{status: describe_status(status) for status in sorted({*errors, *_COMMON_STATUSES})}}


def describe_status(status: int) -> dict[str, Any]:
    """Return the OpenAPI response of an error."""
    headers = {**_REQUEST_ID, **(_RETRY_AFTER if status in (429, 503) else {})}
    content = {"application/json": {"schema": ref("Error")}}
    return {"description": _ERRORS[status], "headers": headers, "content": content}


def add_model_route(
    router: APIRouter,
    prefix: str,
    suffix: str,
    endpoint: Endpoint,
    *,
    method: str,
    responses: dict[int | str, dict[str, Any]],
    extra: dict[str, Any] | None = None,
) -> None:
    """Add PREFIX/models/{model}SUFFIX and PREFIX/models/{model}/versions/{version}SUFFIX.

    Endpoints take the plain request, so that the framework parses no body; this is their OpenAPI description.

    Args:
        router: gets the routes.
        prefix: `/v1` or `/v2`.
        suffix: `/infer`, `:predict`, or nothing.
        endpoint: called with the request; its docstring is the description.
        method: the HTTP method.
        responses: as `describe_responses` returns them.
        extra: further OpenAPI fields of the operation: parameters and request body.
    """
    for versioned in (False, True):
        parameters = [MODEL_PARAMETER]
        if versioned:
            parameters.append(_VERSION_PARAMETER)
        described = {**(extra or {}), "parameters": parameters + (extra or {}).get("parameters", [])}
        router.add_api_route(
            f"{prefix}/models/{{model}}{'/versions/{version}' if versioned else ''}{suffix}",
            endpoint,
            methods=[method],
            response_class=JSONResponse,
            responses=responses,
            openapi_extra=described,
        )


def prefix_of(request: Request) -> str:
    """Return the path prefix that links in the response to a request begin with; empty without one."""
    forwarded: Forwarded | None = request.scope.get(FORWARDED_KEY)
    return "" if forwarded is None else forwarded.prefix


def find_model(request: Request, repository: Repository) -> Model:
    """Return the model that the path of a request names.

    Raises:
        UnknownModelError: no model or version has that name.
        ModelUnavailableError: the model is not ready.
    """
    return repository.find(request.path_params["model"], request.path_params.get("version"))

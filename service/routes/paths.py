"""How a route is described: what it may answer; and of one about a model, with and without a version in its path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from normfold.service.repository.loaded_model import Model
from normfold.service.repository.repository import Repository
from normfold.service.routes.schemas import ref

Endpoint = Callable[[Request], Awaitable[Response]]

_ERRORS = {
    400: "The request is not what the route takes.",
    401: "No valid key came with the request.",
    403: "It is not allowed here.",
    404: "There is no such model or version.",
    408: "The request did not come whole in time.",
    413: "The body is too large.",
    429: "The key has asked too often.",
    431: "The headers are too long.",
    500: "The service failed.",
    503: "It cannot answer now: the model is not ready, its queue is full, or the service has too much to do or ends.",
    504: "The request's deadline passed.",
}
_EVERYWHERE = (400, 408, 413, 431, 500, 503)
"""Whatever is asked, it may be answered so."""

_REQUEST_ID = {"X-Request-Id": {"description": "The request's own, or a new one.", "schema": {"type": "string"}}}
_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds after which to try again; of a full queue, as measured.",
        "schema": {"type": "integer", "minimum": 1},
    }
}


def _path_parameter(name: str, description: str, example: str) -> dict[str, Any]:
    described = {"name": name, "in": "path", "required": True, "description": description}
    return {**described, "schema": {"type": "string", "minLength": 1}, "example": example}


MODEL_PARAMETER = _path_parameter("model", "Name of the model.", "digits")
_VERSION_PARAMETER = _path_parameter("version", "Version of the model.", "1")


def answers(
    schema: str | None,
    *errors: int,
    example: Any = None,
    content: dict[str, Any] | None = None,
    headers: dict[str, Any] | None = None,
) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of an operation.

    Args:
        schema: the name of what it answers, in `service.routes.schemas`; None where it is no JSON.
        errors: statuses that it may answer with, besides those that every operation has.
        example: of what it answers.
        content: what it may answer besides, by media type.
        headers: that such an answer may have.
    """
    json: dict[str, Any] = {} if schema is None else {"application/json": {"schema": ref(schema)}}
    if example is not None:
        json["application/json"]["example"] = example
    right: dict[str, Any] = {"description": "It is answered.", "headers": {**_REQUEST_ID, **(headers or {})}}
    if json or content:
        right["content"] = {**json, **(content or {})}
    return {200: right, **{status: describe_status(status) for status in sorted({*errors, *_EVERYWHERE})}}


def describe_status(status: int) -> dict[str, Any]:
    """Return what OpenAPI says of an answer that is an error."""
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

    Endpoints take the bare request, so that the framework never parses a body; what is documented of them is said here.

    Args:
        router: what to add to.
        prefix: `/v1` or `/v2`.
        suffix: `/infer`, `:predict`, or nothing.
        endpoint: called with the request; its docstring becomes the description.
        method: the HTTP method.
        responses: as `answers` returns them.
        extra: OpenAPI fields of the operation: parameters and request body.
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


def find_model(request: Request, repository: Repository) -> Model:
    """Return the model that the request's path names.

    Raises:
        UnknownModelError: no such model or version.
        ModelUnavailableError: it is not ready.
    """
    return repository.find(request.path_params["model"], request.path_params.get("version"))

"""How a route about a model is added: with and without a version in its path, and both described."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.engine import Model
from service.repository import Repository

Endpoint = Callable[[Request], Awaitable[Response]]

_ERROR = {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is not what the model takes.", "content": _ERROR},
    401: {"description": "No valid key came with the request.", "content": _ERROR},
    403: {"description": "It is not allowed here.", "content": _ERROR},
    404: {"description": "There is no such model or version.", "content": _ERROR},
    413: {"description": "The body is too large.", "content": _ERROR},
    429: {"description": "The key has asked too often.", "content": _ERROR},
    500: {"description": "The service failed.", "content": _ERROR},
    503: {"description": "The model is not ready, or its queue is full.", "content": _ERROR},
    504: {"description": "The request's deadline passed.", "content": _ERROR},
}


def add_model_route(
    router: APIRouter,
    prefix: str,
    suffix: str,
    endpoint: Endpoint,
    *,
    method: str,
    errors: tuple[int, ...],
    answer: Any,
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
        errors: statuses that it may answer with.
        answer: an example of what it answers.
        extra: OpenAPI fields of the operation: parameters and request body.
    """
    for versioned in (False, True):
        parameters = [_path_parameter("model", "Name of the model.")]
        if versioned:
            parameters.append(_path_parameter("version", "Version of the model; left out, the highest that is ready."))
        described = {**(extra or {}), "parameters": parameters + (extra or {}).get("parameters", [])}
        router.add_api_route(
            f"{prefix}/models/{{model}}{'/versions/{version}' if versioned else ''}{suffix}",
            endpoint,
            methods=[method],
            response_class=JSONResponse,
            responses={200: {"content": {"application/json": {"example": answer}}}, **{e: ERRORS[e] for e in errors}},
            openapi_extra=described,
        )


def find_model(request: Request, repository: Repository) -> Model:
    """Return the model that the request's path names.

    Raises:
        UnknownModelError: no such model or version.
        ModelUnavailableError: it is not ready.
    """
    return repository.find(request.path_params["model"], request.path_params.get("version"))


def _path_parameter(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": {"type": "string"}}

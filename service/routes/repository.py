"""Triton's model repository extension: the index, and loading and unloading of models."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.codec.request import parse_object
from normfold.service.errors import InvalidRequestError
from normfold.service.http.body import read_plain_body
from normfold.service.repository.repository import Repository
from normfold.service.routes.examples import json_body
from normfold.service.routes.paths import MODEL_PARAMETER, describe_responses
from normfold.service.settings import Settings
from normfold.service.workers.coordinator import Coordinator

_INDEX = [{"name": "digits", "version": "1", "state": "READY", "reason": ""}]


def repository_routes(
    repository: Repository, coordinator: Coordinator, thread_pool: ThreadPool, settings: Settings
) -> APIRouter:
    """Return the routes of the repository.

    Args:
        repository: has the index.
        coordinator: loads and unloads in every worker process.
        thread_pool: decompresses a large body.
        settings: limit on bodies.
    """
    router = APIRouter(prefix="/v2/repository", tags=["repository"])

    @router.post(
        "/index",
        response_class=JSONResponse,
        responses=describe_responses("Index", 415, example=_INDEX),
        openapi_extra=json_body("IndexRequest", {}, "Empty: all versions.", required=False),
    )
    async def index(request: Request) -> JSONResponse:
        """Every version of every model and its state; with `{"ready": true}` only those that are ready."""
        body = await read_plain_body(request, thread_pool, settings.max_body_bytes)
        ready = parse_object(body).get("ready", False) if body else False
        if not isinstance(ready, bool):
            raise InvalidRequestError("The field 'ready' is not true or false.")
        return JSONResponse(list_index(repository, ready))

    responses, extra = describe_responses(None, 403, 404), {"parameters": [MODEL_PARAMETER]}

    @router.post("/models/{model}/load", response_class=Response, responses=responses, openapi_extra=extra)
    async def load(request: Request) -> Response:
        """Load a model, and respond when it is ready. Needs model_control=explicit."""
        await coordinator.load_model(request.path_params["model"])
        return Response()

    @router.post("/models/{model}/unload", response_class=Response, responses=responses, openapi_extra=extra)
    async def unload(request: Request) -> Response:
        """Unload a model: requests in flight are served, new ones are not. Needs model_control=explicit."""
        await coordinator.unload_model(request.path_params["model"])
        return Response()

    return router


def list_index(repository: Repository, ready: bool) -> list[dict[str, str]]:
    """Return every version of every model and its state, or only those that are ready."""
    versions = [
        {"name": name, "version": str(number), "state": entry.state, "reason": entry.reason}
        for name, entries in repository.entries.items()
        for number, entry in entries.items()
        if entry.model is not None or not ready
    ]
    if not ready:
        for name, reason in repository.unreadable.items():
            versions.append({"name": name, "version": "", "state": "UNAVAILABLE", "reason": reason})
    return versions

"""The Open Inference Protocol's server routes: metadata, liveness, readiness."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from normfold.service.repository.repository import Repository
from normfold.service.routes.paths import describe_responses, prefix_of
from normfold.service.workers.coordinator import Coordinator

_ZERO_QUALITY = re.compile(r"q=0(\.0*)?")

EXTENSIONS = (
    *("binary_tensor_data", "classification", "model_configuration", "model_repository"),
    *("parameters", "statistics"),
)
"""The supported extensions of the protocol, by Triton's names."""


def health_routes(
    repository: Repository, coordinator: Coordinator, needs_key: bool, page: Callable[[Request], Response] | None
) -> APIRouter:
    """Return the routes about the service as a whole.

    Args:
        repository: has the providers of the loaded models.
        coordinator: knows whether the service is ready.
        needs_key: whether requests need a key; a request without one does not get the reason why it is not ready.
        page: returns the page at /; None if there is none.
    """
    router = APIRouter(tags=["health"])

    @router.get(
        "/v2",
        response_class=JSONResponse,
        responses=describe_responses("Server", example={**_metadata(), "providers": ["cpu"]}),
    )
    async def server_metadata(_: Request) -> JSONResponse:
        """Name, version, supported extensions of the protocol, and the execution providers of the loaded models."""
        return JSONResponse(describe_server(repository))

    router.add_api_route("/v2/", server_metadata, include_in_schema=False)  # as the protocol's document writes it

    to_docs: dict[int | str, dict[str, Any]] = {
        307: {"description": "To /docs, for a browser (the Accept header names text/html) where the page is off."}
    }

    @router.get("/", response_class=JSONResponse, responses={**describe_responses("Alive"), **to_docs})
    async def server_alive(request: Request) -> Response:
        """The process responds; for clients of KServe's first protocol. A browser gets the page."""
        headers = {"Vary": "Accept"}
        if _accepts_html(request.headers.getlist("accept")):
            return page(request) if page else RedirectResponse(f"{prefix_of(request)}/docs", headers=headers)
        return JSONResponse({"status": "alive"}, headers=headers)

    @router.get("/v2/health/live", response_class=JSONResponse, responses=describe_responses("Live"))
    async def server_live(_: Request) -> JSONResponse:
        """The process responds."""
        return JSONResponse({"live": True})

    @router.get("/v2/health/ready", response_class=JSONResponse, responses=describe_responses("Ready"))
    async def server_ready(_: Request) -> JSONResponse:
        """The models are loaded and at least one is ready; otherwise 503, with the reason if no key is needed."""
        if coordinator.problem is not None:
            reason = "The service is not ready; its log says why." if needs_key else coordinator.problem
            return JSONResponse({"ready": False, "error": reason}, 503)
        return JSONResponse({"ready": True})

    return router


def _accepts_html(accept: Sequence[str]) -> bool:
    """Return whether Accept headers name text/html; a wildcard, as programs send it, does not."""
    for part in ",".join(accept).lower().split(","):
        media_type, *parameters = (piece.strip() for piece in part.split(";"))
        if media_type == "text/html" and not any(_ZERO_QUALITY.fullmatch(one) for one in parameters):
            return True
    return False


def describe_server(repository: Repository) -> dict[str, Any]:
    """Return the protocol's metadata of the service, and the execution providers of the loaded models."""
    models = (entry.model for versions in repository.entries.values() for entry in versions.values())
    return {**_metadata(), "providers": sorted({model.session.provider for model in models if model})}


def _metadata() -> dict[str, Any]:
    return {"name": "normfold", "version": version("normfold"), "extensions": list(EXTENSIONS)}

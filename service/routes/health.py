"""Whether the service answers and is ready, and what it is: the Open Inference Protocol's server routes."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from normfold.service.repository.repository import Repository
from normfold.service.routes.paths import answers
from normfold.service.workers.coordinator import Coordinator

EXTENSIONS = (
    *("binary_tensor_data", "classification", "model_configuration", "model_repository"),
    *("parameters", "statistics"),
)
"""Those of the protocol's extensions, by Triton's names, that work here."""


def health_routes(repository: Repository, coordinator: Coordinator, needs_key: bool) -> APIRouter:
    """Return the routes about the service as a whole."""
    router = APIRouter(tags=["health"])
    metadata = {"name": "normfold", "version": version("normfold"), "extensions": list(EXTENSIONS)}

    @router.get(
        "/v2", response_class=JSONResponse, responses=answers("Server", example={**metadata, "providers": ["cpu"]})
    )
    async def server_metadata(_: Request) -> JSONResponse:
        """Name, version, the extensions of the protocol that work here, and the providers that models run on."""
        models = (entry.model for versions in repository.entries.values() for entry in versions.values())
        return JSONResponse({**metadata, "providers": sorted({model.session.provider for model in models if model})})

    @router.get("/v2/health/live", response_class=JSONResponse, responses=answers("Live"))
    async def server_live(_: Request) -> JSONResponse:
        """The process answers."""
        return JSONResponse({"live": True})

    @router.get("/v2/health/ready", response_class=JSONResponse, responses=answers("Ready"))
    async def server_ready(_: Request) -> JSONResponse:
        """The models are loaded and at least one can answer; otherwise 503, and the reason where no key is needed."""
        if coordinator.problem is not None:
            reason = "The service is not ready; its log says why." if needs_key else coordinator.problem
            return JSONResponse({"ready": False, "error": reason}, 503)
        return JSONResponse({"ready": True})

    return router

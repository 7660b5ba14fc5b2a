"""The application: `create_app(settings)` puts the parts together, its lifespan loads the models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse

from service import http_errors
from service.middleware import RequestMiddleware
from service.processors import available_processors
from service.repository import Repository
from service.routes.health import health_routes
from service.routes.infer import infer_routes
from service.routes.models import model_routes
from service.routes.predict import predict_routes
from service.settings import Settings
from service.workers import Workers

_DESCRIPTION = """
Serves models from a repository of bundles through ONNX Runtime.

* **predict** takes what people have, pixels or rows in their own units, and preprocesses it as the model was trained.
* **infer** takes tensors: the [Open Inference Protocol](https://github.com/kserve/open-inference-protocol).
* **models** and **health** say what there is, and whether it can answer.

The examples suit a model named `digits` of 8 × 8 grey pictures. Every error is `{"error": "one sentence"}`.
"""


def create_app(settings: Settings) -> FastAPI:
    """Build the application.

    Models load in the background once the application has started, so that `live` answers while `ready` does not yet.

    Args:
        settings: what the service is told.
    """
    workers = Workers(threads=available_processors() + 1)  # one more, so that a picture decodes while networks run
    repository = Repository(settings, workers)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(repository.load())
        yield
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading
        workers.close()

    app = FastAPI(
        title="Normfold",
        version=version("normfold"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.state.workers = workers  # whether they have ended is for whoever ends the process
    http_errors.install(app)
    app.add_middleware(RequestMiddleware, max_body_bytes=settings.max_body_bytes)
    app.include_router(predict_routes(repository, workers, settings))
    app.include_router(infer_routes(repository, workers))
    app.include_router(model_routes(repository))
    app.include_router(health_routes(repository))

    @app.get("/", include_in_schema=False)
    async def to_pages(_: Request) -> RedirectResponse:
        return RedirectResponse("/docs")

    return app

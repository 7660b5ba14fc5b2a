"""The application: `create_app(settings)` puts the parts together, its lifespan loads the models."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import Receive, Scope, Send

from service import http_errors
from service.access import FileLines, LogLines
from service.infer import InferRoute
from service.metrics import Metrics
from service.middleware import RequestMiddleware
from service.processors import available_processors
from service.repository import Repository
from service.routes.health import health_routes
from service.routes.infer import infer_routes
from service.routes.models import model_routes
from service.routes.predict import predict_routes
from service.routes.repository import repository_routes
from service.routes.schemas import SCHEMAS
from service.routes.statistics import statistics_routes
from service.settings import Settings
from service.telemetry import Telemetry
from service.tracing import open_tracing
from service.workers import Workers

if TYPE_CHECKING:
    from service.spans import Spans

_DESCRIPTION = """
Serves models from a repository of bundles through ONNX Runtime.

* **predict** takes what people have, pixels or rows in their own units, and preprocesses it as the model was trained.
* **infer** takes tensors: the [Open Inference Protocol](https://github.com/kserve/open-inference-protocol).
* **models** and **health** say what there is, and whether it can answer.

The examples suit a model named `digits` of 8 × 8 grey pictures. Every error is `{"error": "one sentence"}`.
"""


_COLLECT_AFTER = 20_000
"""Objects made, and not gone, between two collections; requests leave no cycles behind."""


class _App(FastAPI):
    """FastAPI, within what surrounds every request; FastAPI's own middleware would stand before the infer route."""

    def surround(self, infer: InferRoute, telemetry: Telemetry, max_body_bytes: int, spans: Spans | None) -> None:
        """Put the middleware around everything."""
        self._surrounded = RequestMiddleware(super().__call__, infer, telemetry, max_body_bytes, spans)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, with what `service.routes.schemas` says of bodies; made once."""
        document = super().openapi()
        document.setdefault("components", {}).setdefault("schemas", {}).update(SCHEMAS)
        return document

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Answer one request."""
        return self._surrounded(scope, receive, send)


async def _load(repository: Repository) -> None:
    """Load the models, and spare the garbage collector what stays: a full collection would stall every request."""
    await repository.load()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 50)
    await repository.watch()


_TRACED_HERE: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""FastAPI's own telemetry would not see the infer route, and doubles what is here."""


def create_app(settings: Settings, spans: Spans | None = None) -> FastAPI:
    """Build the application.

    Models load in the background once the application has started, so that `live` answers while `ready` does not yet.

    Args:
        settings: what the service is told.
        spans: where requests are traced; left out, as the settings say.

    Raises:
        SettingsError: the access log cannot be written, or OpenTelemetry refuses one of its variables.
        MissingPackageError: requests are to be traced, and OpenTelemetry's SDK is not installed.
    """
    if spans is None and settings.tracing:
        spans = open_tracing()
    workers = Workers(threads=available_processors() + 1)  # one more, so that a picture decodes while networks run
    access_log = FileLines(settings.access_log) if settings.access_log is not None else LogLines()
    telemetry = Telemetry(access_log)
    repository = Repository(settings, workers, telemetry)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(_load(repository))
        yield
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading
        await repository.close()
        workers.close()
        if spans is not None:
            spans.close()
        if isinstance(access_log, FileLines):
            access_log.close()

    app = _App(
        title="Normfold",
        version=version("normfold"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        telemetry=_TRACED_HERE,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.state.workers = workers  # whether they have ended is for whoever ends the process
    http_errors.install(app)
    app.surround(InferRoute(repository, workers, settings), telemetry, settings.max_body_bytes, spans)
    app.include_router(predict_routes(repository, workers, settings))
    app.include_router(infer_routes())
    app.include_router(
        statistics_routes(repository, telemetry, Metrics(telemetry, repository, settings.triton_metrics))
    )
    app.include_router(model_routes(repository))
    app.include_router(repository_routes(repository))
    app.include_router(health_routes(repository))

    @app.get("/", include_in_schema=False)
    async def to_pages(_: Request) -> RedirectResponse:
        return RedirectResponse("/docs")

    return app

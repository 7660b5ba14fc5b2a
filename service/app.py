"""The application: `create_app(settings)` puts the parts together, its lifespan loads the models."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import Receive, Scope, Send

from normfold.service import error_responses as http_errors
from normfold.service.auth.authorization import Authorizer
from normfold.service.auth.key_store import KeyStore
from normfold.service.auth.rate_limit import RateLimiter
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.http.cors import Cors
from normfold.service.http.middleware import RequestMiddleware
from normfold.service.inference.asgi import InferRoute
from normfold.service.inference.fast_path import FastPath
from normfold.service.inference.large_responses import LargeResponses
from normfold.service.observability.access_log import FileLines, LogLines
from normfold.service.observability.metrics import Metrics
from normfold.service.observability.request_trace import Telemetry
from normfold.service.observability.trace_context import open_tracing
from normfold.service.repository.arena_trimmer import ArenaTrimmer
from normfold.service.repository.repository import Repository
from normfold.service.routes.drift import drift_routes
from normfold.service.routes.health import health_routes
from normfold.service.routes.infer import infer_routes
from normfold.service.routes.models import model_routes
from normfold.service.routes.predict import predict_routes
from normfold.service.routes.repository import repository_routes
from normfold.service.routes.schemas import SCHEMAS
from normfold.service.routes.security import describe_keys
from normfold.service.routes.statistics import statistics_routes
from normfold.service.runtime.cpu_limits import share_of_processors
from normfold.service.settings import Settings
from normfold.service.workers.coordinator import Coordinator
from normfold.service.workers.shared_state import SharedState
from normfold.service.workers.shutdown import graceful_shutdown
from normfold.service.workers.state_dir import WORKERS

if TYPE_CHECKING:
    from normfold.service.observability.otel import Spans

logger = logging.getLogger(__name__)

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

    fast_path: FastPath | None = None
    """For the HTTP server, which knows it by this name."""

    def surround(
        self, infer: InferRoute, telemetry: Telemetry, settings: Settings, doors: Authorizer | None, spans: Spans | None
    ) -> None:
        """Put the middleware around everything."""
        self._needs_key = doors is not None
        self._surrounded: RequestMiddleware | Cors = RequestMiddleware(
            super().__call__, infer, telemetry, settings.max_body_bytes, settings.max_bodies_bytes, doors, spans
        )
        if settings.cors_origins:
            self._surrounded = Cors(self._surrounded, settings.cors_origins)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Answer one request."""
        return self._surrounded(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, with what `service.routes.schemas` says of bodies; made once."""
        made = self.openapi_schema is None
        document = super().openapi()
        if made:
            document.setdefault("components", {}).setdefault("schemas", {}).update(SCHEMAS)
        if made and self._needs_key:
            describe_keys(document)
        return document


async def _load(repository: Repository, coordinator: Coordinator) -> None:
    """Load the models, and spare the garbage collector what stays: a full collection would stall every request."""
    await repository.load()
    await coordinator.catch_up()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 50)


async def _keep_up(
    loading: asyncio.Task[None], repository: Repository, coordinator: Coordinator, memory: ArenaTrimmer
) -> None:
    """Follow what changes in the folders, what the other workers want, and what memory can be given back."""
    await loading
    await asyncio.gather(repository.watch(), coordinator.work(), memory.watch())


_TRACED_HERE: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""FastAPI's own telemetry would not see the infer route, and doubles what is here."""


def _log_death(task: asyncio.Task[None]) -> None:
    """Log what ended a task that should go on for ever."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("The service no longer follows its folders and its other workers.", exc_info=error)


def create_app(settings: Settings, spans: Spans | None = None) -> FastAPI:
    """Build the application.

    Models load in the background once the application has started, so that `live` answers while `ready` does not yet.

    Args:
        settings: what the service is told.
        spans: where requests are traced; left out, as the settings say.

    Raises:
        SettingsError: the access log cannot be written, the file of keys is missing or broken, or OpenTelemetry refuses
            one of its variables.
        MissingPackageError: requests are to be traced, and OpenTelemetry's SDK is not installed.
    """
    if spans is None and settings.tracing:
        spans = open_tracing()
    keyring = KeyStore(settings.keys) if settings.keys is not None else None
    doors = Authorizer(keyring, RateLimiter(share=1 / settings.workers)) if keyring is not None else None
    threads = share_of_processors(settings.workers) + 1  # one more, so that a picture decodes while networks run
    workers = ThreadPool(threads)
    access_log = FileLines(settings.access_log) if settings.access_log is not None else LogLines()
    telemetry = Telemetry(access_log)
    repository = Repository(settings, workers, telemetry)
    shared = SharedState(settings.state_dir / WORKERS) if settings.workers > 1 and settings.state_dir else None
    coordinator = Coordinator(repository, telemetry, shared, settings.workers)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if keyring is not None:
            keyring.start()
        graceful_shutdown(coordinator.stop, settings.shutdown_delay_s)
        loading = asyncio.create_task(_load(repository, coordinator))
        if coordinator.replaces_another:
            logger.warning("A worker process died; this one takes its place.")
            await loading  # the others answer meanwhile
        keeping_up = asyncio.create_task(_keep_up(loading, repository, coordinator, ArenaTrimmer(repository, workers)))
        keeping_up.add_done_callback(_log_death)
        yield
        keeping_up.cancel()
        await asyncio.wait([keeping_up])
        coordinator.close()
        await repository.close()
        workers.close()
        if keyring is not None:
            keyring.close()
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
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.workers = workers  # whether they have ended is for whoever ends the process
    http_errors.install(app)
    large = LargeResponses(workers, settings.max_response_bytes)
    app.surround(InferRoute(repository, workers, settings, large), telemetry, settings, doors, spans)
    if spans is None:
        app.fast_path = FastPath(repository, telemetry, workers, settings, large, doors)
    app.include_router(predict_routes(repository, workers, settings))
    app.include_router(infer_routes())
    metrics = Metrics(coordinator, repository, settings.triton_metrics)
    app.state.metrics = metrics  # the documentation lists them
    app.include_router(statistics_routes(repository, coordinator, metrics))
    app.include_router(drift_routes(repository, workers))
    app.include_router(model_routes(repository))
    app.include_router(repository_routes(repository, coordinator))
    app.include_router(health_routes(repository, coordinator, needs_key=doors is not None))

    @app.get("/", include_in_schema=False)
    async def to_pages(_: Request) -> RedirectResponse:
        return RedirectResponse("/docs")

    return app

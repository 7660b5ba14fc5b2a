"""The ASGI application: `create_app` puts its parts together, its lifespan loads the models."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.types import ASGIApp, Receive, Scope, Send

from normfold.service.auth.authorization import Authorizer, required_scope
from normfold.service.auth.key_store import KeyStore
from normfold.service.auth.rate_limit import RateLimiter
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.error_responses import install_handlers
from normfold.service.grpc.server_factory import open_grpc
from normfold.service.http.cors import Cors
from normfold.service.http.cross_site import CrossSiteCheck
from normfold.service.http.middleware import RequestMiddleware
from normfold.service.inference.asgi import InferRoute
from normfold.service.inference.byte_budget import ByteBudget
from normfold.service.inference.fast_path import FastPath
from normfold.service.inference.infer_call import InferResources
from normfold.service.inference.large_responses import LargeResponses
from normfold.service.inference.observers import AnswerObservers
from normfold.service.inference.steps import RequestSteps
from normfold.service.network.notify import Notifier, take_notifier
from normfold.service.network.tls import Certificates, open_certificates
from normfold.service.observability.access_log import open_access_log
from normfold.service.observability.metrics import Metrics
from normfold.service.observability.payload_log.payload_log import open_payload_log
from normfold.service.observability.telemetry import Telemetry
from normfold.service.observability.trace_context import open_tracing
from normfold.service.proxy.forwarding import Forwarding
from normfold.service.proxy.trusted_addresses import TrustedAddresses
from normfold.service.repository.arena_trimmer import ArenaTrimmer
from normfold.service.repository.repository import Repository
from normfold.service.rollout.control import RolloutControl
from normfold.service.rollout.rollouts import Rollouts
from normfold.service.routes.drift import drift_routes
from normfold.service.routes.health import health_routes
from normfold.service.routes.infer import infer_routes
from normfold.service.routes.models import model_routes
from normfold.service.routes.predict import predict_routes
from normfold.service.routes.repository import repository_routes
from normfold.service.routes.rollout import rollout_routes
from normfold.service.routes.schemas import SCHEMAS
from normfold.service.routes.security import describe_keys
from normfold.service.routes.statistics import statistics_routes
from normfold.service.runtime.cpu_limits import share_of_processors
from normfold.service.settings import Settings
from normfold.service.web.docs_routes import page_routes
from normfold.service.workers.coordinator import Coordinator
from normfold.service.workers.hangup import handle_hangup
from normfold.service.workers.shared_state import SharedState
from normfold.service.workers.shutdown import graceful_shutdown
from normfold.service.workers.snapshot import take_snapshot
from normfold.service.workers.state_dir import WORKERS

if TYPE_CHECKING:
    from normfold.service.observability.otel import Spans

logger = logging.getLogger(__name__)

_DESCRIPTION = """
Serves models from a repository of bundles through ONNX Runtime.

* **predict** takes raw inputs, images or rows in their original units, and preprocesses them as in training.
* **infer** takes tensors: the [Open Inference Protocol](https://github.com/kserve/open-inference-protocol).
* **models** and **health** describe the models and their readiness.

The examples fit a model named `digits` of 8 × 8 grey images. Every error is `{"error": "one sentence"}`.
"""

_GC_THRESHOLDS = (20_000, 20, 50)
"""Thresholds of the garbage collector's generations; requests leave no reference cycles."""

_NO_FRAMEWORK_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""FastAPI's own telemetry would not see infer requests, and would count the others twice."""


class _App(FastAPI):
    """FastAPI inside the service's middleware; as a middleware of FastAPI's it would come too late for infer requests.

    Attributes:
        fast_path: serves small infer requests past ASGI; the HTTP protocol reads it. None with tracing, whose spans
            need ASGI's scope.
        certificates: for TLS; the HTTP server reads them. None without TLS.
    """

    fast_path: FastPath | None = None
    certificates: Certificates | None = None
    _needs_key = False
    _outermost: ASGIApp
    _forwarding: Forwarding

    def wrap(
        self, infer: InferRoute, steps: RequestSteps, bodies: ByteBudget, forwarding: Forwarding, settings: Settings
    ) -> None:
        """Put the middleware around the routes."""
        self._needs_key, self._forwarding = settings.keys is not None, forwarding
        self._outermost = RequestMiddleware(
            super().__call__, infer, steps, settings.max_body_bytes, bodies, CrossSiteCheck(settings)
        )
        if settings.cors_origins:
            self._outermost = Cors(self._outermost, settings.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan. Servers recognise ASGI 3 by this coroutine function."""
        if scope["type"] == "http" and (self._forwarding.is_active or scope.get("root_path")):
            scope = self._forwarding.adapt(scope)
        await self._outermost(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document with the schemas of `service.routes.schemas`; made at the first call."""
        is_new = self.openapi_schema is None
        document = super().openapi()
        if is_new:
            document.setdefault("components", {}).setdefault("schemas", {}).update(SCHEMAS)
        if is_new and self._needs_key:
            describe_keys(document)
        return document


async def _load(repository: Repository, coordinator: Coordinator) -> None:
    """Load the models; then exempt everything loaded from garbage collection, which would stall every request."""
    await repository.load()
    await coordinator.catch_up()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


async def _run_background(
    loading: asyncio.Task[None], repository: Repository, coordinator: Coordinator, trimmer: ArenaTrimmer
) -> None:
    """Poll the repository, follow the other worker processes, and trim memory, until cancelled."""
    await loading
    await asyncio.gather(repository.poll(), coordinator.run(), trimmer.run())


async def _give_signs_of_life(notifier: Notifier) -> None:
    """Tell the service manager's watchdog that the event loop runs, until cancelled."""
    while notifier.watchdog_interval_s is not None:
        notifier.alive()
        await asyncio.sleep(notifier.watchdog_interval_s)


def create_app(settings: Settings, spans: Spans | None = None) -> FastAPI:
    """Create the application.

    Its lifespan loads the models in the background, so that `/v2/health/live` answers before `/v2/health/ready` does.

    Args:
        settings: of the service.
        spans: exports traces; left out, as the setting `tracing` says.

    Returns:
        An ASGI application for any ASGI server. Under the server of `service.http.server` small infer requests take
        the fast path.

    Raises:
        SettingsError: the access log or the payload log cannot be written, the key file or one of a certificate is
            missing or broken, or OpenTelemetry rejects one of its variables.
        MissingPackageError: `tracing` is set, and OpenTelemetry's SDK is not installed; or `grpc_port`, and grpcio.
    """
    if spans is None and settings.tracing:
        spans = open_tracing()
    key_store = KeyStore(settings.keys) if settings.keys is not None else None
    certificates = open_certificates(settings)
    authorizer = Authorizer(key_store, RateLimiter(share=1 / settings.workers)) if key_store is not None else None
    threads = share_of_processors(settings.workers) + 1  # one more, so that an image is decoded while networks run
    thread_pool = ThreadPool(threads)
    access_log = open_access_log(settings)
    telemetry = Telemetry(access_log)
    repository = Repository(settings, thread_pool, telemetry)
    shared = SharedState(settings.state_dir / WORKERS) if settings.workers > 1 and settings.state_dir else None
    rollouts = Rollouts(repository, thread_pool, telemetry, settings)
    coordinator = Coordinator(repository, telemetry, shared, settings.workers, rollouts)
    payload_log = open_payload_log(settings)
    telemetry.payloads = None if payload_log is None else payload_log.counts
    observers = AnswerObservers(rollouts, payload_log)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        if key_store is not None:
            key_store.start()

        def end_grpc() -> None:
            if grpc_server is not None:
                loop.call_soon_threadsafe(grpc_server.begin_stop)

        def stop() -> None:
            coordinator.stop()
            notifier.stopping()

        def note_loaded(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                notifier.ready(repository.problem or "Serving.")

        notifier = take_notifier()
        graceful_shutdown(stop, settings.shutdown_delay_s, end_grpc)
        handle_hangup(access_log, certificates, notifier)
        loading = asyncio.create_task(_load(repository, coordinator))
        loading.add_done_callback(note_loaded)
        if coordinator.replaces_dead_worker:
            logger.warning("A worker process died; this one replaces it.")
            await loading  # the other workers serve meanwhile
        if grpc_server is not None:
            await grpc_server.start()
        trimmer = ArenaTrimmer(repository, thread_pool)
        background = asyncio.create_task(_run_background(loading, repository, coordinator, trimmer))
        watchdog = asyncio.create_task(_give_signs_of_life(notifier))
        yield
        if grpc_server is not None:
            await grpc_server.stop()
        background.cancel()
        watchdog.cancel()
        await asyncio.wait([background, watchdog])
        rollouts.close()
        coordinator.close()
        await repository.close()
        thread_pool.close()
        if key_store is not None:
            key_store.close()
        if spans is not None:
            spans.close()
        access_log.close()
        if payload_log is not None:
            payload_log.close()

    app = _App(
        title="Normfold",
        version=version("normfold"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        telemetry=_NO_FRAMEWORK_TELEMETRY,
        redirect_slashes=False,
        openapi_url=None,  # service.web has the document and its page
    )
    app.state.rollouts = rollouts
    app.state.thread_pool = thread_pool  # the command checks whether its threads have ended
    install_handlers(app)
    steps = RequestSteps(telemetry, authorizer, spans)
    large_responses = LargeResponses(thread_pool, settings.max_response_bytes)
    resources = InferResources(repository, thread_pool, large_responses, settings.max_body_bytes, observers)
    bodies = ByteBudget(settings.max_bodies_bytes)
    grpc_server = open_grpc(settings, resources, steps, bodies, repository, coordinator, certificates)
    app.state.grpc_server = grpc_server  # tests read its port
    trusted = TrustedAddresses(settings.forwarded_allow_ips) if settings.proxy_headers else None
    forwarding = Forwarding(settings.root_path, trusted, lambda path: required_scope(path) is not None)
    app.certificates = certificates
    app.wrap(InferRoute(resources), steps, bodies, forwarding, settings)
    if spans is None:
        through_asgi = frozenset({b"origin"} if settings.cors_origins else ())
        app.fast_path = FastPath(steps, resources, through_asgi, forwarding if forwarding.is_active else None)
    app.include_router(predict_routes(repository, thread_pool, settings, observers))
    app.include_router(infer_routes())
    metrics = Metrics(partial(take_snapshot, coordinator, repository), settings.triton_metrics)
    app.state.metrics = metrics  # the documentation lists them
    app.include_router(statistics_routes(repository, coordinator, metrics))
    control = RolloutControl(repository, thread_pool, settings)
    app.include_router(rollout_routes(repository, coordinator, control, thread_pool, settings))
    app.include_router(drift_routes(repository, thread_pool))
    app.include_router(model_routes(repository))
    app.include_router(repository_routes(repository, coordinator, thread_pool, settings))
    app.include_router(health_routes(repository, coordinator, needs_key=authorizer is not None))
    app.include_router(page_routes(app.openapi))
    return app

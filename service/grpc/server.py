"""The gRPC server, on the service's event loop: grpc.aio's, with the methods of the protocol, health and reflection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import grpc
from grpc.aio import ServicerContext as Context
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from normfold.service.errors import NO_SHARED_MEMORY, AddressError
from normfold.service.grpc.address import distinct_hosts
from normfold.service.grpc.call_steps import SERVICE, CallMetadata, CallSteps
from normfold.service.grpc.health import HEALTH_SERVICE, Health
from normfold.service.grpc.infer import Inference
from normfold.service.grpc.listeners import Listeners
from normfold.service.grpc.methods import SHARED_MEMORY_METHODS, Answer, Methods
from normfold.service.grpc.protocol.inference_pb2 import POOL
from normfold.service.grpc.status import CallStatus, Metadata, to_status
from normfold.service.grpc.stream import InferStream
from normfold.service.inference.byte_budget import ByteBudget
from normfold.service.inference.infer_call import InferResources
from normfold.service.inference.response import Response
from normfold.service.inference.steps import RequestSteps
from normfold.service.network.grpc_credentials import server_credentials
from normfold.service.network.tls import Certificates
from normfold.service.observability.request_trace import RequestTrace
from normfold.service.proxy.forwarding import Forwarding
from normfold.service.repository.repository import Repository
from normfold.service.settings import Settings
from normfold.service.workers.coordinator import Coordinator

logger = logging.getLogger(__name__)

_MAX_DEADLINE_S = 1e8
"""A call without a deadline has one centuries away."""

_MIN_PING_INTERVAL_MS = 10_000
"""Clients that ping more often are disconnected; gRPC's own limit, five minutes, is above that of proxies."""


_MAX_PENDING_CALLS = 2**16
"""Calls that gRPC holds before the event loop takes them; of more than 1000, by default, it cancels some at random."""


class GrpcServer:
    """Serves gRPC from `start` to `stop`.

    Args:
        settings: of the service, with a `grpc_port`.
        resources: shared with HTTP.
        steps: those of every request.
        forwarding: finds the client of a call that came through proxies.
        bodies: byte budget of all large bodies and messages.
        repository: finds models.
        coordinator: knows whether the service is ready.
        certificates: for TLS; None without it.
    """

    def __init__(
        self,
        settings: Settings,
        resources: InferResources,
        steps: RequestSteps,
        forwarding: Forwarding,
        bodies: ByteBudget,
        repository: Repository,
        coordinator: Coordinator,
        certificates: Certificates | None = None,
    ) -> None:
        self._certificates = certificates
        self._settings, self._steps = settings, CallSteps(forwarding, steps, bodies, settings.max_connections)
        self._inference, self._methods = Inference(resources), Methods(repository, coordinator)
        self._health = Health(coordinator)
        self._streams: set[InferStream] = set()
        self._listeners: Listeners | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            AddressError: the port is in use.
        """
        listeners = Listeners((self._handler(), self._health.handler()), _options(self._settings))
        _add_descriptors()
        for server in listeners.servers:
            reflection.enable_server_reflection((SERVICE, HEALTH_SERVICE, reflection.SERVICE_NAME), server, POOL)
        self.port, credentials = self._settings.grpc_port or 0, self._make_credentials()
        for host in distinct_hosts(self._settings.hosts):
            try:
                self.port = listeners.bind(f"[{host}]" if ":" in host else host, self.port, credentials)
            except RuntimeError:
                problem = "Address already in use; choose another with --grpc-port."
                raise AddressError(host, self.port, problem) from None
        await listeners.start()
        self._listeners = listeners
        hosts = ", ".join(self._settings.hosts)
        logger.info("gRPC is listening on port %d of %s%s.", self.port, hosts, " with TLS" if credentials else "")

    def begin_stop(self) -> None:
        """Accept no more calls, and answer those in flight within the grace period; on the event loop."""
        if self._listeners is not None and self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(self._listeners))

    async def stop(self) -> None:
        """Wait until all calls are answered."""
        self.begin_stop()
        if self._stopping is not None:
            await self._stopping

    async def _stop(self, listeners: Listeners) -> None:
        grace_s = self._settings.shutdown_grace_s
        stopped = asyncio.get_running_loop().create_task(listeners.stop(grace_s + 1.0))
        for stream in self._streams:
            stream.stop()
        await asyncio.wait((stopped,), timeout=grace_s)
        self._inference.stop()
        await stopped

    def _make_credentials(self) -> Callable[[], grpc.ServerCredentials] | None:
        """Return a function that makes the credentials of one port; None without TLS."""
        return None if self._certificates is None else partial(server_credentials, self._certificates, self._settings)

    def _handler(self) -> grpc.GenericRpcHandler:
        """Return the handler of the protocol's methods; messages stay serialized."""
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(name, answer))
            for name, answer in self._methods.table().items()
        }
        for name in SHARED_MEMORY_METHODS:
            handlers[name] = grpc.unary_unary_rpc_method_handler(_reject_shared_memory)
        handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._infer)
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _read_metadata(self, method: str, context: Context) -> CallMetadata:
        return self._steps.read_metadata(method, context.invocation_metadata(), context.peer())

    def _unary(self, name: str, answer: Answer) -> object:
        async def serve(data: bytes, context: Context) -> bytes:
            metadata = self._read_metadata(name, context)
            served = await self._steps.serve(metadata, data, partial(_remaining_s, context), partial(answer, data))
            return await _finish(context, *served)

        return serve

    async def _infer(self, data: bytes, context: Context) -> bytes:
        metadata = self._read_metadata("ModelInfer", context)

        async def answer(trace: RequestTrace) -> bytes:
            encoded = await self._inference.infer(data, metadata.headers, _remaining_s(context), trace)
            return b"".join(encoded.pieces)

        return await _finish(context, *await self._steps.serve(metadata, data, partial(_remaining_s, context), answer))

    async def _stream(self, _: object, context: Context) -> None:
        metadata = self._read_metadata("ModelStreamInfer", context)
        stream = InferStream(self._steps, self._inference, metadata, context, partial(_remaining_s, context))
        self._streams.add(stream)
        if self._stopping is not None:
            stream.stop()
        try:
            if (status := await stream.serve()) is not None:
                await _abort(context, status, ())
        finally:
            self._streams.discard(stream)


async def _reject_shared_memory(_: bytes, context: Context) -> NoReturn:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"There is no such method; {NO_SHARED_MEMORY}")
    raise AssertionError("abort raises")


async def _finish(context: Context, trace: RequestTrace, response: bytes | Response) -> bytes:
    """Return a response, or end the call with the status of an error."""
    request_id: Metadata = (("x-request-id", trace.request_id),)
    if isinstance(response, Response):
        await _abort(context, to_status(response), request_id)
    context.set_trailing_metadata(request_id)
    return response


async def _abort(context: Context, status: CallStatus, metadata: Metadata) -> NoReturn:
    await context.abort(status.code, status.text, (*metadata, *status.details))
    raise AssertionError("abort raises")


def _remaining_s(context: Context) -> float | None:
    """Return the seconds until the deadline of a call; None if it has none."""
    remaining = context.time_remaining()
    return None if remaining is None or remaining > _MAX_DEADLINE_S else max(0.0, float(remaining))


def _options(settings: Settings) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_INTERVAL_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.server.max_pending_requests", _MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING_CALLS),
    ]
    if settings.grpc_max_connection_age_s:
        options.append(("grpc.max_connection_age_ms", int(1000 * settings.grpc_max_connection_age_s)))
    return options


def _add_descriptors() -> None:
    """Add the descriptors of the other services to the pool that reflection reads."""
    for file in (health_pb2.DESCRIPTOR, reflection._reflection_pb2.DESCRIPTOR):
        POOL.AddSerializedFile(file.serialized_pb)

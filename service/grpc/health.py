"""grpc.health.v1, as Kubernetes and load balancers ask for it: serving is what /v2/health/ready is.

Source: github.com/grpc/grpc, doc/health-checking.md.
"""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2

from normfold.service.grpc.call_steps import SERVICE
from normfold.service.workers.coordinator import Coordinator

HEALTH_SERVICE = "grpc.health.v1.Health"

_POLL_INTERVAL_S = 1.0
_SERVICES = ("", SERVICE)
"""Names that clients may ask for; the empty one is the service as a whole."""

_STATUS = health_pb2.HealthCheckResponse.ServingStatus


class Health:
    """Answers health checks; needs no key, as the routes of HTTP.

    Args:
        coordinator: knows whether the service is ready.
    """

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the handler of both methods."""
        request, response = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        check = grpc.unary_unary_rpc_method_handler(self._check, request.FromString, response.SerializeToString)
        watch = grpc.unary_stream_rpc_method_handler(self._watch, request.FromString, response.SerializeToString)
        return grpc.method_handlers_generic_handler(HEALTH_SERVICE, {"Check": check, "Watch": watch})

    async def _check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Answer whether the service is ready; NOT_FOUND for another service's name."""
        if request.service not in _SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"There is no service {request.service!r}.")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def _watch(self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext) -> None:
        """Send the status, and again whenever it changes, until the service stops."""
        sent = None
        while not self._coordinator.is_stopping or sent is None:
            status = self._status(request.service)
            if status != sent:
                sent = status
                await context.write(health_pb2.HealthCheckResponse(status=status))
            await asyncio.sleep(_POLL_INTERVAL_S)
        await context.write(health_pb2.HealthCheckResponse(status=_STATUS.NOT_SERVING))

    def _status(self, service: str) -> int:
        if service not in _SERVICES:
            return int(_STATUS.SERVICE_UNKNOWN)
        return int(_STATUS.SERVING if self._coordinator.problem is None else _STATUS.NOT_SERVING)

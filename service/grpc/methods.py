"""The methods besides inference: readiness, metadata, configuration, statistics, repository; what HTTP's routes answer.

Their messages have the fields of the JSON that those routes respond with.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError, Message

from normfold.service.errors import InvalidRequestError, ModelUnavailableError
from normfold.service.grpc.protocol import inference_pb2 as pb
from normfold.service.observability.request_trace import RequestTrace
from normfold.service.repository.repository import Repository
from normfold.service.routes.health import describe_server
from normfold.service.routes.models import describe_configuration, describe_metadata
from normfold.service.routes.repository import list_index
from normfold.service.routes.statistics import describe_statistics
from normfold.service.workers.coordinator import Coordinator

SHARED_MEMORY_METHODS = tuple(
    f"{kind}SharedMemory{what}" for kind in ("System", "Cuda") for what in ("Status", "Register", "Unregister")
)
"""Triton's methods that are answered with UNIMPLEMENTED and a sentence."""

Answer = Callable[[bytes, RequestTrace], Awaitable[bytes]]
"""Answers a serialized message with another; errors are raised."""

Request = TypeVar("Request", bound=Message)


class Methods:
    """The methods that are not on the path of inference.

    Args:
        repository: finds models.
        coordinator: knows whether the service is ready, loads and unloads in every worker process.
    """

    def __init__(self, repository: Repository, coordinator: Coordinator) -> None:
        self._repository, self._coordinator = repository, coordinator

    def table(self) -> dict[str, Answer]:
        """Return the methods by name."""
        return {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }

    async def _server_live(self, _: bytes, __: RequestTrace) -> bytes:
        return pb.ServerLiveResponse(live=True).SerializeToString()

    async def _server_ready(self, _: bytes, __: RequestTrace) -> bytes:
        return pb.ServerReadyResponse(ready=self._coordinator.problem is None).SerializeToString()

    async def _model_ready(self, data: bytes, trace: RequestTrace) -> bytes:
        request = _parse(pb.ModelReadyRequest, data)
        trace.model = request.name
        try:
            self._repository.find(request.name, request.version or None)
        except ModelUnavailableError:
            return pb.ModelReadyResponse(ready=False).SerializeToString()
        return pb.ModelReadyResponse(ready=True).SerializeToString()

    async def _server_metadata(self, _: bytes, __: RequestTrace) -> bytes:
        return _message(pb.ServerMetadataResponse(), describe_server(self._repository))

    async def _model_metadata(self, data: bytes, trace: RequestTrace) -> bytes:
        request = _parse(pb.ModelMetadataRequest, data)
        trace.model = request.name
        model = self._repository.find(request.name, request.version or None)
        return _message(pb.ModelMetadataResponse(), describe_metadata(model, self._repository))

    async def _model_config(self, data: bytes, trace: RequestTrace) -> bytes:
        request = _parse(pb.ModelConfigRequest, data)
        trace.model = request.name
        model = self._repository.find(request.name, request.version or None)
        return _message(pb.ModelConfigResponse(), {"config": describe_configuration(model, self._repository.policy)})

    async def _model_statistics(self, data: bytes, trace: RequestTrace) -> bytes:
        request = _parse(pb.ModelStatisticsRequest, data)
        trace.model = request.name
        model = self._repository.find(request.name, request.version or None) if request.name else None
        return _message(pb.ModelStatisticsResponse(), describe_statistics(self._repository, self._coordinator, model))

    async def _repository_index(self, data: bytes, _: RequestTrace) -> bytes:
        request = _parse(pb.RepositoryIndexRequest, data)
        return _message(pb.RepositoryIndexResponse(), {"models": list_index(self._repository, request.ready)})

    async def _load(self, data: bytes, trace: RequestTrace) -> bytes:
        request = _parse(pb.RepositoryModelLoadRequest, data)
        trace.model = request.model_name
        await self._coordinator.load_model(request.model_name)
        return b""

    async def _unload(self, data: bytes, trace: RequestTrace) -> bytes:
        request = _parse(pb.RepositoryModelUnloadRequest, data)
        trace.model = request.model_name
        await self._coordinator.unload_model(request.model_name)
        return b""


def _parse(kind: type[Request], data: bytes) -> Request:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidRequestError(f"The message is not a {kind.DESCRIPTOR.name}.") from None


def _message(message: Message, fields: dict[str, Any]) -> bytes:
    return ParseDict(fields, message, ignore_unknown_fields=True).SerializeToString()

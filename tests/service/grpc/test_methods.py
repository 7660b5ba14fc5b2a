"""The methods besides inference, streams, health and reflection, by Triton's client and gRPC's own."""

from __future__ import annotations

import queue
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import InferenceServerClient as Client
from tritonclient.utils import InferenceServerException

from normfold.service.grpc.call_steps import SERVICE
from tests.support.service import Service

READY = health_pb2.HealthCheckResponse.SERVING
PICTURE = np.zeros((1, 1, 4, 4), np.float32)


@pytest.fixture(scope="module")
def channel(grpc_address: str) -> Any:
    with grpc.insecure_channel(grpc_address) as channel:
        yield channel


def numbers(value: Any) -> Any:
    """Return JSON with integers of 64 bits as numbers: protobuf writes them as strings."""
    if isinstance(value, dict):
        return {name: numbers(one) for name, one in value.items()}
    if isinstance(value, list):
        return [numbers(one) for one in value]
    return int(value) if isinstance(value, str) and value.lstrip("-").isdigit() else value


def non_empty(value: Any) -> Any:
    """Return JSON without zeros and empty values, which protobuf does not send."""
    if isinstance(value, dict):
        return {name: non_empty(one) for name, one in value.items() if one or isinstance(one, dict)}
    return [non_empty(one) for one in value] if isinstance(value, list) else value


def test_grpc_readiness_is_that_of_http(client: Client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    with pytest.raises(InferenceServerException, match="NOT_FOUND"):
        client.is_model_ready("none")


@pytest.mark.parametrize("path", ["", "/models/digits", "/models/digits/versions/1/config", "/models/digits/stats"])
def test_grpc_describes_what_http_describes(grpc_service: Service, client: Client, path: str) -> None:
    if path.endswith("stats"):
        client.infer("digits", [picture()])
    described = {
        "": client.get_server_metadata,
        "/models/digits": lambda: client.get_model_metadata("digits"),
        "/models/digits/versions/1/config": lambda: client.get_model_config("digits", "1").config,
        "/models/digits/stats": lambda: client.get_inference_statistics("digits"),
    }[path]()
    ours = numbers(MessageToDict(described, preserving_proto_field_name=True))
    http = grpc_service.client.get(f"/v2{path}").json()
    http.pop("providers", None)  # no field of the protocol
    assert non_empty(ours) == non_empty(numbers(http))


def test_grpc_statistics_of_all_models_are_those_of_http(grpc_service: Service, client: Client) -> None:
    names = [(one.name, one.version) for one in client.get_inference_statistics().model_stats]
    http = grpc_service.client.get("/v2/models/stats").json()["model_stats"]
    assert names == [(one["name"], one["version"]) for one in http]


def test_grpc_loads_and_unloads_models(client: Client) -> None:
    def state() -> str:
        return next(str(one.state) for one in client.get_model_repository_index().models if one.name == "rows")

    assert state() == "READY"
    client.unload_model("rows")
    assert state() == "UNAVAILABLE"
    assert not client.is_model_ready("rows")
    client.load_model("rows")
    assert state() == "READY"
    with pytest.raises(InferenceServerException, match="NOT_FOUND"):
        client.load_model("none")


def picture(array: np.ndarray = PICTURE) -> triton.InferInput:
    found = triton.InferInput("input", list(array.shape), "FP32")
    found.set_data_from_numpy(array)
    return found


@pytest.mark.slow
def test_grpc_stream_answers_each_request_with_its_id(client: Client) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    bad, count = PICTURE[:, :, :2], 400
    for index in range(count):
        client.async_stream_infer("digits", [picture(bad if index == 7 else PICTURE)], request_id=str(index))
    found = [answers.get(timeout=20) for _ in range(count)]
    client.stop_stream()
    ids = sorted(int(result.get_response().id) for result, error in found if error is None)
    assert ids == [index for index in range(count) if index != 7]
    (error,) = [error for _, error in found if error is not None]
    assert "[request id: 7] Input 'input' has the shape" in str(error)
    assert all(result.as_numpy("logits").shape == (1, 3) for result, error in found if error is None)


@pytest.mark.parametrize("asks", [False, True])
def test_grpc_stream_marks_the_final_response_if_asked(client: Client, asks: bool) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("digits", [picture()], request_id="1", enable_empty_final_response=asks)
    result, error = answers.get(timeout=20)
    client.stop_stream()
    assert error is None
    assert result.as_numpy("logits").shape == (1, 3)
    assert ("triton_final_response" in result.get_response().parameters) == asks


def test_grpc_stream_ends_when_its_client_cancels_it(grpc_service: Service, client: Client) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("digits", [picture()])
    client.stop_stream(cancel_requests=True)
    assert client.infer("digits", [picture()]).as_numpy("logits").shape == (1, 3)
    assert grpc_service.client.get("/v2/health/ready").status_code == 200


def test_grpc_shared_memory_is_answered_with_what_it_is(client: Client) -> None:
    calls = [
        lambda: client.register_system_shared_memory("region", "/key", 4),
        client.unregister_system_shared_memory,
        client.get_system_shared_memory_status,
        lambda: client.register_cuda_shared_memory("region", b"aGFuZGxl", 0, 4),
        client.unregister_cuda_shared_memory,
        client.get_cuda_shared_memory_status,
    ]
    for call in calls:
        with pytest.raises(InferenceServerException, match=r"UNIMPLEMENTED.*has no shared memory with its clients"):
            call()


def test_grpc_health_is_readiness(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == READY
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="other"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
    watched = stub.Watch(health_pb2.HealthCheckRequest())
    assert next(watched).status == READY
    watched.cancel()
    unknown = stub.Watch(health_pb2.HealthCheckRequest(service="other"))
    assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()


def test_grpc_reflection_describes_every_service(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) >= {SERVICE, "grpc.health.v1.Health"}
    assert database.FindFileContainingSymbol(SERVICE).name == "inference.proto"
    assert database.FindFileContainingSymbol("grpc.health.v1.Health").package == "grpc.health.v1"

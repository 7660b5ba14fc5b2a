"""What holds for calls: deadlines, cancellation, limits, keys, the end of the service."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse
from tritonclient.utils import InferenceServerException

from normfold.contract.errors import MissingPackageError
from normfold.service.app import create_app
from normfold.service.auth.key_admin import create_key
from normfold.service.error_responses import STATUS
from normfold.service.grpc.status import CODES
from normfold.service.observability.otel import Spans
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter
from tests.support.service import AccessLog, HeldRuns, Service, StartService, queued_rows, serve_app
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

INFER = "/inference.GRPCInferenceService/ModelInfer"
ROW = ModelInferRequest(
    model_name="digits",
    inputs=[{"name": "input", "datatype": "FP32", "shape": (1, 1, 4, 4)}],
    raw_input_contents=[bytes(64)],
).SerializeToString()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Any:
    runs = HeldRuns(monkeypatch)
    yield runs
    runs.go_on.set()


Open = Callable[..., tuple[Service, grpc.Channel]]


@pytest.fixture
def open_service(bundles: BundleWriter, start: StartService) -> Any:
    """Return a function that serves `digits`; the settings of the service are its arguments."""
    bundles.digits()
    channels = []

    def open_channel(**settings: Any) -> tuple[Service, grpc.Channel]:
        service = start(bundles.root, grpc_port=0, **settings)
        wait_for(lambda: service.app.state.grpc_server.port)
        channels.append(grpc.insecure_channel(address(service)))
        return service, channels[-1]

    yield open_channel
    for channel in channels:
        channel.close()


def address(service: Service) -> str:
    return f"127.0.0.1:{service.app.state.grpc_server.port}"


def status_of(call: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def test_grpc_has_a_code_for_every_status_of_http() -> None:
    assert not set(STATUS.values()) - set(CODES)


@pytest.mark.slow
def test_grpc_deadline_of_the_call_is_the_requests(open_service: Open, held: HeldRuns, access_log: AccessLog) -> None:
    service, channel = open_service()
    held.holds.set()
    running = channel.unary_unary(INFER).future(ROW)
    assert held.running.wait(timeout=20)
    late = status_of(lambda: channel.unary_unary(INFER)(ROW, timeout=0.2, metadata=(("x-request-id", "late"),)))
    assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert access_log.facts_of("late")["status"] == 504
    assert queued_rows(service) == 0
    held.go_on.set()
    assert running.result()


@pytest.mark.slow
def test_grpc_parameter_timeout_holds_within_the_deadline(open_service: Open, held: HeldRuns) -> None:
    _, channel = open_service()
    held.holds.set()
    running = channel.unary_unary(INFER).future(ROW)
    assert held.running.wait(timeout=20)
    request = ModelInferRequest.FromString(ROW)
    request.parameters["timeout"].int64_param = 100_000
    late = status_of(lambda: channel.unary_unary(INFER)(request.SerializeToString(), timeout=20))
    assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert late.details() == "The request's deadline passed before the model had answered."
    held.go_on.set()
    assert running.result()


def test_grpc_cancelled_call_leaves_the_queue_and_the_batch(
    open_service: Open, held: HeldRuns, access_log: AccessLog
) -> None:
    service, channel = open_service()
    held.holds.set()
    infer = channel.unary_unary(INFER)
    running = infer.future(ROW, metadata=(("x-request-id", "running"),))
    assert held.running.wait(timeout=20)
    queued = infer.future(ROW, metadata=(("x-request-id", "queued"),))
    wait_for(lambda: queued_rows(service) == 1)
    queued.cancel()
    assert access_log.facts_of("queued")["status"] == 499
    assert queued_rows(service) == 0
    assert not held.cancels[0].is_set
    running.cancel()
    wait_for(lambda: held.cancels[0].is_set)
    held.go_on.set()
    assert infer(ROW)


def test_grpc_full_queue_is_unavailable_with_retry_info(open_service: Open, held: HeldRuns) -> None:
    service, channel = open_service(queue_capacity=1)
    held.holds.set()
    calls = [channel.unary_unary(INFER).future(ROW)]
    assert held.running.wait(timeout=20)
    calls.append(channel.unary_unary(INFER).future(ROW))
    wait_for(lambda: queued_rows(service) == 1)
    refused = status_of(lambda: channel.unary_unary(INFER)(ROW))
    assert refused.code() is grpc.StatusCode.UNAVAILABLE
    details = Status.FromString(dict(refused.trailing_metadata())["grpc-status-details-bin"])
    assert (details.code, details.message) == (grpc.StatusCode.UNAVAILABLE.value[0], refused.details())
    (detail,) = details.details
    info = RetryInfo()
    assert AnyMessage.Unpack(detail, info)
    assert info.retry_delay.seconds >= 1
    held.go_on.set()
    assert all(call.result() for call in calls)


def test_grpc_calls_over_the_limit_are_unavailable_with_retry_info(open_service: Open, held: HeldRuns) -> None:
    _, channel = open_service(max_connections=1)
    held.holds.set()
    running = channel.unary_unary(INFER).future(ROW)
    assert held.running.wait(timeout=20)
    refused = status_of(lambda: channel.unary_unary(INFER)(ROW))
    assert (refused.code(), "Too many calls" in refused.details()) == (grpc.StatusCode.UNAVAILABLE, True)
    assert "grpc-status-details-bin" in dict(refused.trailing_metadata())
    held.go_on.set()
    assert running.result()
    assert channel.unary_unary(INFER)(ROW)


def test_grpc_messages_share_the_byte_budget_of_bodies(open_service: Open, held: HeldRuns) -> None:
    service, channel = open_service(max_bodies_bytes=100_000)
    rows = 1000
    request = ModelInferRequest.FromString(ROW)
    request.inputs[0].shape[0] = rows
    request.raw_input_contents[0] = bytes(64 * rows)
    held.holds.set()
    running = channel.unary_unary(INFER).future(request.SerializeToString())
    assert held.running.wait(timeout=20)
    refused = status_of(lambda: channel.unary_unary(INFER)(request.SerializeToString()))
    assert (refused.code(), "Too many large requests" in refused.details()) == (grpc.StatusCode.UNAVAILABLE, True)
    headers = {"Inference-Header-Content-Length": "0"}
    assert service.client.post("/v2/models/digits/infer", content=bytes(64 * rows), headers=headers).status_code == 503
    held.go_on.set()
    assert running.result()
    assert channel.unary_unary(INFER)(request.SerializeToString())


def test_grpc_keys_and_scopes_are_those_of_http(open_service: Open, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    limits: dict[str, Any] = {"infer": {}, "metrics": {}, "slow": {"rate": 0.01, "burst": 1}}
    sent = {
        name: create_key(file, name, ["infer" if name == "slow" else name], **limit)[1]
        for name, limit in limits.items()
    }
    _, channel = open_service(wait=False, keys=file)

    def code(method: str, *metadata: tuple[str, str]) -> grpc.StatusCode:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}").with_call
        try:
            call(ROW if method == "ModelInfer" else b"", metadata=metadata)
        except grpc.RpcError as error:
            return error.code()  # type: ignore[attr-defined]
        return grpc.StatusCode.OK

    def bearer(name: str) -> tuple[str, str]:
        return "authorization", f"Bearer {sent[name]}"

    wait_for(lambda: code("ModelInfer", bearer("infer")) is grpc.StatusCode.OK)
    codes = grpc.StatusCode
    assert code("ServerReady") is codes.OK
    assert code("ModelInfer") is codes.UNAUTHENTICATED
    assert code("ModelMetadata") is codes.UNAUTHENTICATED
    assert code("ModelInfer", ("authorization", f"Bearer {sent['infer'][:-1]}x")) is codes.UNAUTHENTICATED
    assert code("ModelInfer", ("x-api-key", sent["infer"])) is codes.OK
    assert code("ModelInfer", bearer("infer"), bearer("metrics")) is codes.INVALID_ARGUMENT
    assert code("ModelInfer", bearer("metrics")) is codes.PERMISSION_DENIED
    assert code("ModelStatistics", bearer("metrics")) is codes.OK
    assert code("RepositoryModelLoad", bearer("infer")) is codes.PERMISSION_DENIED
    assert [code("ModelInfer", bearer("slow")) for _ in range(2)] == [codes.OK, codes.RESOURCE_EXHAUSTED]
    stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    assert status_of(lambda: next(stream(iter([ROW])))).code() is codes.UNAUTHENTICATED


def test_grpc_asyncio_client_gets_its_answers(open_service: Open) -> None:
    service, _ = open_service()

    async def ask() -> None:
        async with triton_aio.InferenceServerClient(address(service)) as client:
            assert await client.is_server_ready()
            tensor = triton.InferInput("input", [2, 1, 4, 4], "FP32")
            tensor.set_data_from_numpy(np.zeros((2, 1, 4, 4), np.float32))
            answers = await asyncio.gather(*(client.infer("digits", [tensor], request_id=str(i)) for i in range(50)))
            assert [answer.get_response().id for answer in answers] == [str(i) for i in range(50)]
            with pytest.raises(InferenceServerException, match="NOT_FOUND"):
                await client.infer("none", [tensor])

    asyncio.run(ask())


def test_grpc_stop_answers_calls_in_flight(open_service: Open, held: HeldRuns) -> None:
    opened, channel = open_service()
    held.holds.set()
    running = channel.unary_unary(INFER).future(ROW)
    assert held.running.wait(timeout=20)
    opened.server.should_exit = True

    def is_refused() -> bool:
        with grpc.insecure_channel(address(opened), options=[("grpc.use_local_subchannel_pool", 1)]) as other:
            try:
                other.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=2)
            except grpc.RpcError:
                return True
        return False

    wait_for(is_refused, poll_s=0.05)
    assert not running.done()
    held.go_on.set()
    assert running.result(timeout=20)


@pytest.mark.slow
def test_grpc_stop_ends_calls_after_the_grace_period(open_service: Open, held: HeldRuns) -> None:
    opened, channel = open_service(shutdown_grace_s=0.3)
    held.holds.set()
    running = channel.unary_unary(INFER).future(ROW)
    assert held.running.wait(timeout=20)
    opened.server.should_exit = True
    ended = status_of(lambda: running.result(timeout=20))
    assert (ended.code(), ended.details()) == (grpc.StatusCode.UNAVAILABLE, "The service is stopping.")


def test_grpc_stop_ends_a_stream_after_its_answers(open_service: Open) -> None:
    opened, channel = open_service()
    more = threading.Event()

    def requests() -> Any:
        yield ROW
        more.wait(timeout=20)

    answers = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(requests())
    assert next(answers)
    opened.server.should_exit = True
    assert status_of(lambda: next(answers)).code() is grpc.StatusCode.UNAVAILABLE
    more.set()


def test_grpc_without_its_packages_names_the_extra(monkeypatch: pytest.MonkeyPatch, identity_repository: Path) -> None:
    monkeypatch.setitem(sys.modules, "normfold.service.grpc.server", None)
    with pytest.raises(MissingPackageError, match=r"gRPC \(NORMFOLD_GRPC_PORT\) needs the package 'grpcio'.*\[grpc\]"):
        create_app(Settings(repository=identity_repository, grpc_port=0))
    create_app(Settings(repository=identity_repository))


@pytest.mark.slow
def test_grpc_cancelled_calls_leave_nothing_behind(open_service: Open) -> None:
    service, channel = open_service(queue_capacity=10_000, max_connections=2000)
    random, infer = np.random.default_rng(0), channel.unary_unary(INFER)
    calls, cancelled = [], set()
    for index in range(1500):
        rows = int(random.integers(1, 5))
        request = ModelInferRequest.FromString(ROW)
        request.id, request.inputs[0].shape[0], request.raw_input_contents[0] = str(index), rows, bytes(64 * rows)
        calls.append((index, rows, infer.future(request.SerializeToString(), timeout=20)))
        if index % 3 == 0:
            cancelled.add(chosen := int(random.integers(max(0, index - 20), index + 1)))
            calls[chosen][2].cancel()
    answered = 0
    for index, rows, call in calls:
        try:
            answer = ModelInferResponse.FromString(call.result())
        except (grpc.FutureCancelledError, grpc.RpcError):
            assert index in cancelled, call
            continue
        assert (answer.id, list(answer.outputs[0].shape)) == (str(index), [rows, 3])
        answered += 1
    assert 900 < answered < 1500
    wait_for(lambda: "normfold_requests_in_flight 1.0" in service.client.get("/metrics").text)  # this request itself
    assert queued_rows(service) == 0
    assert not service.app.state.grpc_server._inference._pending
    assert service.client.get("/v2/models/digits/stats").json()["model_stats"][0]["inference_stats"]["success"]["count"]


def test_grpc_call_is_a_span_of_the_clients_trace(bundles: BundleWriter) -> None:
    bundles.digits()
    exporter = InMemorySpanExporter()
    spans, trace_id = Spans(exporter), "0123456789abcdef0123456789abcdef"
    settings = Settings(repository=bundles.root, provider="cpu", grpc_port=0)
    with serve_app(create_app(settings, spans), settings) as service:
        service.wait_until_loaded()
        with grpc.insecure_channel(address(service)) as channel:
            metadata = (("traceparent", f"00-{trace_id}-0123456789abcdef-01"), ("tracestate", "vendor=1"))
            channel.unary_unary(INFER)(ROW, metadata=metadata)

        def found() -> Any:
            spans.flush()
            return next((span for span in exporter.get_finished_spans() if span.name == f"POST {INFER}"), None)

        wait_for(found)
        assert (f"{found().context.trace_id:032x}", f"{found().parent.span_id:016x}") == (trace_id, "0123456789abcdef")
        assert found().attributes["normfold.model"] == "digits"
        assert found().context.trace_state["vendor"] == "1"

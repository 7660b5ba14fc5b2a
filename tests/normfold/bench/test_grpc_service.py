"""`normfold.bench` by gRPC against a server that refuses, fails and stalls, and by TLS."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import normfold
from normfold.errors import ClientError, UnreachableError
from normfold.service.grpc.protocol.inference_pb2 import ModelInferRequest, ModelInferResponse, ModelMetadataResponse

METADATA = ModelMetadataResponse(
    name="m", inputs=[ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, 2])]
)
OPTIONS: dict[str, Any] = {"duration_s": 0.3, "warm_up_s": 0.0}


@contextmanager
def pretended_grpc_service(
    answer: Callable[[int], grpc.StatusCode | None], certificate: Path | None = None
) -> Iterator[tuple[str, list[ModelInferRequest]]]:
    """Run a server, and yield its URL and requests; `answer` returns the status of a call, None for OK."""
    requests: list[ModelInferRequest] = []

    def infer(data: bytes, context: grpc.ServicerContext) -> bytes:
        number = len(requests)
        requests.append(ModelInferRequest.FromString(data))
        if (code := answer(number)) is not None:
            context.abort(code, f"The sentence of {code.name}.")
        return ModelInferResponse(model_name="m").SerializeToString()

    methods = {
        "ModelMetadata": grpc.unary_unary_rpc_method_handler(lambda *_: METADATA.SerializeToString()),
        "ModelInfer": grpc.unary_unary_rpc_method_handler(infer),
    }
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),))
    if certificate is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = (certificate.with_suffix(".key").read_bytes(), certificate.read_bytes())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        yield f"grpc{'s' * (certificate is not None)}://127.0.0.1:{port}", requests
    finally:
        server.stop(None).wait()


@pytest.mark.slow
def test_grpc_statuses_are_refusals_or_errors() -> None:
    codes = {
        1: grpc.StatusCode.RESOURCE_EXHAUSTED,
        2: grpc.StatusCode.UNAVAILABLE,
        3: grpc.StatusCode.INTERNAL,
    }
    with pretended_grpc_service(lambda number: codes.get(number % 4)) as (url, requests):
        [level] = normfold.bench(url, "m", rates=[100], arrivals="constant", rows=3, **OPTIONS).levels

    assert level.requests == len(requests) - 1 == 30
    assert level.refusals == {"RESOURCE_EXHAUSTED": 8, "UNAVAILABLE": 8}
    assert level.errors == {"INTERNAL": 7}
    assert level.answered == 7
    assert level.sentences["UNAVAILABLE"] == "The sentence of UNAVAILABLE."
    assert {tuple(one.inputs[0].shape) for one in requests} == {(3, 2)}
    assert {len(one.raw_input_contents[0]) for one in requests} == {24}


@pytest.mark.slow
def test_grpc_call_without_an_answer_is_given_up() -> None:
    gone = threading.Event()

    def answer(number: int) -> None:
        if number == 5:
            gone.wait(timeout=20)

    with pretended_grpc_service(answer) as (url, _):
        try:
            [level] = normfold.bench(url, "m", connections=[2], timeout_s=0.2, **OPTIONS).levels
        finally:
            gone.set()
    assert level.errors == {"timeout": 1}
    assert level.answered == level.requests - 1


@pytest.mark.slow
def test_grpc_service_that_ends_is_no_refusal() -> None:
    """A call without a connection is UNAVAILABLE too, by gRPC's own word."""
    is_running = threading.Event()
    options: dict[str, Any] = {"connections": [1], "duration_s": 1.5, "warm_up_s": 0.0}
    with ThreadPoolExecutor(1) as pool:
        with pretended_grpc_service(lambda number: is_running.set() if number == 20 else None) as (url, _):
            running = pool.submit(normfold.bench, url, "m", **options)
            assert is_running.wait(timeout=20)
        [level] = running.result().levels
    assert level.errors["connection"] > 2
    assert level.refused <= 1  # of the call that the server ended


@pytest.mark.slow
def test_error_of_the_first_grpc_call_is_raised() -> None:
    with (
        pretended_grpc_service(lambda _: grpc.StatusCode.INVALID_ARGUMENT) as (url, _),
        pytest.raises(ClientError, match="answers the request with INVALID_ARGUMENT: The sentence"),
    ):
        normfold.bench(url, "m", **OPTIONS)


@pytest.mark.slow
def test_encrypted_services_are_measured_with_their_certificate(
    pretend_service: Callable[..., Any], certificate: Path
) -> None:
    with pretended_grpc_service(lambda _: None, certificate) as (rpc_url, _):
        http_url = pretend_service(certificate=certificate).url
        for url in (http_url, rpc_url):
            [level] = normfold.bench(url, "m", ca=certificate, connections=[2], **OPTIONS).levels
            assert level.answered == level.requests > 2
            with pytest.raises(UnreachableError):
                normfold.bench(url, "m", timeout_s=2.0, **OPTIONS)

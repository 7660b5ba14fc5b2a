"""gRPC through nginx, with what the tests of tests/service/grpc that run through it leave out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.support.proxy.nginx import Nginx
from tests.support.waiting import wait_for


def tensor(values: np.ndarray) -> triton.InferInput:
    made = triton.InferInput("input", list(values.shape), "FP32")
    made.set_data_from_numpy(values)
    return made


@pytest.mark.slow
def test_asyncio_client_gets_the_response_to_each_request(nginx: Nginx) -> None:
    async def ask(client: triton_aio.InferenceServerClient, number: int) -> float:
        result = await client.infer("identity-fp32", [tensor(np.full((1, 2), number, np.float32))])
        return float(result.as_numpy("output")[0, 0])

    async def main() -> list[float]:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{nginx.grpc_port}") as client:
            return await asyncio.gather(*(ask(client, number) for number in range(100)))

    assert asyncio.run(main()) == [float(number) for number in range(100)]


@pytest.mark.slow
def test_large_tensors_arrive_bit_by_bit_over_grpc(nginx: Nginx) -> None:
    sent = np.random.default_rng(0).standard_normal((200_000, 2)).astype(np.float32)
    with triton.InferenceServerClient(f"127.0.0.1:{nginx.grpc_port}") as client:
        got = client.infer("identity-fp32", [tensor(sent)]).as_numpy("output")

    assert got.tobytes() == sent.tobytes()


def test_error_with_a_long_text_arrives_over_grpc(nginx: Nginx) -> None:
    with (
        triton.InferenceServerClient(f"127.0.0.1:{nginx.grpc_port}") as client,
        pytest.raises(InferenceServerException, match="NOT_FOUND"),
    ):
        client.infer("none", [tensor(np.zeros((1, 2), np.float32))], request_id="é" * 10_000)


def test_access_log_names_the_client_of_grpc_behind_nginx(nginx: Nginx, log_file: Path) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{nginx.grpc_port}") as client:
        headers = {"x-request-id": "mine-grpc", "x-forwarded-for": "203.0.113.1"}
        client.infer("identity-fp32", [tensor(np.zeros((1, 2), np.float32))], headers=headers)

    wait_for(lambda: '"mine-grpc"' in log_file.read_text())
    [line] = [json.loads(line) for line in log_file.read_text().splitlines() if '"mine-grpc"' in line]
    assert line["client"] == "127.0.0.1"

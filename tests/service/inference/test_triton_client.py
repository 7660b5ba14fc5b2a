"""The Open Inference Protocol, as Triton's own client speaks it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient import http
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException

from normfold.service.codec.json_tensors import DTYPES
from tests.support.proxy.nginx import STRIPPED, UNBUFFERED, Nginx, run_nginx
from tests.support.service import Service

TENSORS = {
    "BOOL": np.array([[True, False], [False, True]]),
    **{name: np.array([[0, 1], [7, 100]], DTYPES[name]) for name in DTYPES if "INT" in name},
    "FP16": np.array([[0.5, -2.0], [65504.0, np.inf]], np.float16),
    "FP32": np.array([[0.1, np.nan], [-np.inf, 3.4e38]], np.float32),
    "FP64": np.array([[0.1, 1e308], [5e-324, -0.0]]),
    "BYTES": np.array([["", "größer ✓"], ["a", "b" * 300]], np.object_),
}


@pytest.fixture(scope="module")
def nginx(served: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with run_nginx(tmp_path_factory.mktemp("nginx"), served.client.base_url.port or 80, 9) as running:  # no gRPC
        yield running


@pytest.fixture(params=["direct", STRIPPED, UNBUFFERED])
def address(request: pytest.FixtureRequest, served: Service, nginx: Nginx) -> str:
    url = str(served.client.base_url) if request.param == "direct" else nginx.url(request.param)
    return url.removeprefix("http://")


@pytest.fixture
def client(address: str) -> Iterator[http.InferenceServerClient]:
    with http.InferenceServerClient(address) as made:
        yield made


def tensor(array: np.ndarray, datatype: str, binary: bool = True) -> http.InferInput:
    made = http.InferInput("input", list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def picture(rows: int = 1) -> http.InferInput:
    return tensor(np.arange(16 * rows, dtype=np.float32).reshape(rows, 1, 4, 4), "FP32")


def same(got: np.ndarray, sent: np.ndarray) -> bool:
    if sent.dtype == np.object_:
        return [text.decode() for text in got.ravel()] == sent.ravel().tolist()
    return got.dtype == sent.dtype and got.tobytes() == sent.tobytes()


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("datatype", TENSORS)
def test_triton_client_gets_every_datatype_back_bit_by_bit(client: Any, datatype: str, compression: str | None) -> None:
    sent = TENSORS[datatype]

    result = client.infer(
        f"identity-{datatype.lower()}",
        [tensor(sent, datatype)],
        outputs=[http.InferRequestedOutput("output", binary_data=True)],
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )

    assert same(result.as_numpy("output"), sent)


@pytest.mark.parametrize("datatype", [name for name in TENSORS if name != "FP16"])
def test_triton_client_may_mix_json_and_binary_tensors(client: Any, datatype: str) -> None:
    sent = np.nan_to_num(TENSORS[datatype], posinf=1, neginf=1) if datatype.startswith("FP") else TENSORS[datatype]

    for binary in (True, False):
        outputs = [http.InferRequestedOutput("output", binary_data=not binary)]
        result = client.infer(f"identity-{datatype.lower()}", [tensor(sent, datatype, binary)], outputs=outputs)
        got = result.as_numpy("output")
        assert same(got, sent) if binary is False or datatype != "BYTES" else got.ravel().tolist()[2] in ("a", b"a")


def test_triton_client_without_outputs_gets_all_as_bytes(client: Any) -> None:
    result = client.infer("digits", [picture()])

    assert result.get_response()["outputs"][0]["parameters"]["binary_data_size"] == 12


@pytest.mark.parametrize("shape", [(0, 2), (2, 0)])
def test_triton_client_sends_and_gets_empty_tensors(client: Any, shape: tuple[int, int]) -> None:
    result = client.infer("identity-fp32", [tensor(np.zeros(shape, np.float32), "FP32")])

    assert result.get_output("output")["shape"] == list(shape)


def test_triton_client_gets_the_highest_classes(client: Any) -> None:
    outputs = [http.InferRequestedOutput("logits", binary_data=True, class_count=2)]

    result = client.infer("digits", [picture(rows=2)], outputs=outputs, model_version="1")

    texts = [[text.decode() for text in row] for row in result.as_numpy("logits")]
    assert [[text.split(":")[1:] for text in row] for row in texts] == [[["2", "two"], ["1", "one"]]] * 2
    assert texts[0][0] == "32.000000:2:two"


def test_classification_ranks_integers_as_integers(client: Any) -> None:
    outputs = [http.InferRequestedOutput("output", class_count=2)]

    result = client.infer("identity-int64", [tensor(np.array([[2**53, 2**53 + 1]]), "INT64")], outputs=outputs)

    assert [text.decode().split(":")[1] for text in result.as_numpy("output")[0]] == ["1", "0"]


def test_classification_ranks_equal_values_by_index(client: Any) -> None:
    outputs = [http.InferRequestedOutput("output", class_count=3)]

    result = client.infer("identity-fp32", [tensor(np.zeros((1, 3), np.float32), "FP32")], outputs=outputs)
    nothing = client.infer("identity-fp32", [tensor(np.zeros((0, 3), np.float32), "FP32")], outputs=outputs)

    assert [text.decode().split(":")[1] for text in result.as_numpy("output")[0]] == ["0", "1", "2"]
    assert nothing.get_output("output")["shape"] == [0, 3]


def test_triton_client_sets_id_version_timeout_and_priority(client: Any) -> None:
    result = client.infer("digits", [picture()], request_id="abc", model_version="1", timeout=5_000_000, priority=1)

    assert (result.get_response()["id"], result.get_response()["model_version"]) == ("abc", "1")


def test_triton_client_gets_the_services_error_messages(client: Any) -> None:
    with pytest.raises(InferenceServerException) as raised:
        client.infer("digits", [tensor(np.zeros((1, 1, 4, 5), np.float32), "FP32")], request_id="abc")

    assert raised.value.status() == "400"
    assert raised.value.message().startswith("[request id: abc] Input 'input' has the shape [1, 1, 4, 5]")


def test_triton_client_reads_health_metadata_and_configuration(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits", "2")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("digits")["inputs"][0]["shape"] == [-1, 1, 4, 4]
    config = client.get_model_config("digits")
    assert config["max_batch_size"] >= 1
    assert config["input"][0] == {"name": "input", "data_type": "TYPE_FP32", "dims": [1, 4, 4]}


def test_triton_client_reads_statistics_of_rows_and_runs(client: Any) -> None:
    before = client.get_inference_statistics("identity-int8")["model_stats"][0]

    client.infer("identity-int8", [tensor(np.zeros((3, 1), np.int8), "INT8")])

    after = client.get_inference_statistics("identity-int8", "1")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    assert {"batch_size", "compute_infer"} == after["batch_stats"][0].keys()
    every = {(one["name"], one["version"]) for one in client.get_inference_statistics()["model_stats"]}
    assert {("digits", "1"), ("digits", "2"), ("pair", "1")} <= every


def test_asyncio_triton_client_gets_the_response_to_each_request(address: str) -> None:
    async def ask(client: aio.InferenceServerClient, number: int) -> float:
        array = np.full((1, 2), number, np.float32)
        result = await client.infer("identity-fp32", [tensor(array, "FP32")])
        return float(result.as_numpy("output")[0, 0])

    async def main() -> list[float]:
        async with aio.InferenceServerClient(address, conn_limit=32) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(200)))

    assert asyncio.run(main()) == [float(number) for number in range(200)]


@pytest.mark.parametrize("datatype", ["FP32", "FP16", "BYTES"])
def test_triton_client_learns_that_an_input_cannot_lie_in_shared_memory(client: Any, datatype: str) -> None:
    given = http.InferInput("input", [1, 1], datatype)
    given.set_shared_memory("region", 4)
    with pytest.raises(InferenceServerException, match=r"Input 'input' has a shared_memory_region; the service has no"):
        client.infer(f"identity-{datatype.lower()}", [given])


def test_triton_client_learns_that_an_output_cannot_lie_in_shared_memory(client: Any) -> None:
    wanted = http.InferRequestedOutput("logits")
    wanted.set_shared_memory("region", 12)
    with pytest.raises(InferenceServerException, match=r"Output 'logits' has a shared_memory_region; the service has"):
        client.infer("digits", [picture()], outputs=[wanted])


def test_triton_client_learns_that_there_are_no_regions(client: Any) -> None:
    calls = [
        lambda: client.register_system_shared_memory("region", "/key", 4),
        client.unregister_system_shared_memory,
        lambda: client.get_system_shared_memory_status("region"),
        lambda: client.register_cuda_shared_memory("region", b"aGFuZGxl", 0, 4),
        client.unregister_cuda_shared_memory,
        client.get_cuda_shared_memory_status,
    ]
    for call in calls:
        with pytest.raises(InferenceServerException, match=r"sharedmemory.*has no shared memory with its clients"):
            call()

"""ModelInfer by Triton's client and by raw messages: datatypes, raw and typed contents, errors, limits."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse
from tritonclient.utils import InferenceServerException

from normfold.service.app import create_app
from normfold.service.batching.thread_pool import INLINE_BYTES
from normfold.service.grpc.call_steps import peer_address
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter
from tests.support.service import AccessLog, Service, serve_app

INFER = "/inference.GRPCInferenceService/ModelInfer"
PICTURE = np.zeros((1, 1, 4, 4), np.float32)
VALUES: dict[str, Any] = {
    "BOOL": np.array([[True, False, True]]),
    **{name: np.array([[1, 0, -128]], name.lower()) for name in ("INT8", "INT16", "INT32", "INT64")},
    **{name: np.array([[1, 0, 255]], name.lower()) for name in ("UINT8", "UINT16", "UINT32", "UINT64")},
    "FP16": np.array([[1.5, np.nan, -np.inf]], np.float16),
    "FP32": np.array([[1.5, np.nan, -np.inf]], np.float32),
    "FP64": np.array([[1.5, np.nan, 1e300]], np.float64),
    "BYTES": np.array([["é".encode(), b"", b"long" * 100]], np.object_),
}
FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    **{name: f"{name.lower()}_contents" for name in ("INT64", "UINT64", "FP32", "FP64", "BYTES")},
}


def tensor(array: np.ndarray, datatype: str = "FP32", name: str = "input") -> triton.InferInput:
    found = triton.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array)
    return found


@pytest.fixture(scope="module")
def channel(grpc_address: str) -> Any:
    with grpc.insecure_channel(grpc_address) as channel:
        yield channel


def ask(channel: grpc.Channel, request: ModelInferRequest, **options: Any) -> ModelInferResponse:
    return ModelInferResponse.FromString(channel.unary_unary(INFER)(request.SerializeToString(), **options))


def refused(channel: grpc.Channel, request: ModelInferRequest | bytes, **options: Any) -> tuple[grpc.StatusCode, str]:
    data = request if isinstance(request, bytes) else request.SerializeToString()
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(INFER)(data, **options)
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize("datatype", VALUES)
@pytest.mark.parametrize("rows", [1, 5000])
def test_grpc_infer_returns_raw_contents(client: triton.InferenceServerClient, datatype: str, rows: int) -> None:
    given = np.repeat(VALUES[datatype], rows, axis=0)[: 300_000 // VALUES[datatype].itemsize // 3]
    if datatype == "BYTES":
        given = given[:700]
    answer = client.infer(f"identity-{datatype.lower()}", [tensor(given, datatype)], request_id="a b")
    assert answer.get_response().id == "a b"
    np.testing.assert_array_equal(answer.as_numpy("output"), given)


@pytest.mark.slow
@pytest.mark.parametrize("datatype", FIELDS)
@pytest.mark.parametrize("rows", [1, 3000])
def test_grpc_infer_takes_and_returns_typed_contents(channel: grpc.Channel, datatype: str, rows: int) -> None:
    values = VALUES[datatype].reshape(-1).tolist() * (rows if datatype != "BYTES" else 1)
    request = ModelInferRequest(model_name=f"identity-{datatype.lower()}")
    one = request.inputs.add(name="input", datatype=datatype, shape=[len(values) // 3, 3])
    getattr(one.contents, FIELDS[datatype]).extend(values)
    for is_raw in (True, False):
        request.parameters["binary_data_output"].bool_param = is_raw
        answer = ask(channel, request)
        assert len(answer.raw_output_contents) == is_raw
        assert list(answer.outputs[0].shape) == [len(values) // 3, 3]
        if not is_raw:
            np.testing.assert_equal(list(getattr(answer.outputs[0].contents, FIELDS[datatype])), values)


def test_grpc_infer_joins_no_pieces_that_protobuf_would_join_otherwise(channel: grpc.Channel) -> None:
    for name, version, rows in (("digits", 2, 1), ("digits", 2, 300), ("digits", 1, 7)):
        request = ModelInferRequest(model_name=name, model_version=str(version), id="é" * 100)
        request.inputs.add(name="input", datatype="FP32", shape=[rows, 1, 4, 4])
        request.raw_input_contents.append(bytes(64 * rows))
        answer = ask(channel, request)
        assert (answer.model_name, answer.model_version, answer.id) == (name, str(version), "é" * 100)
        assert [(one.name, one.datatype, list(one.shape)) for one in answer.outputs] == [("logits", "FP32", [rows, 3])]
        assert answer.raw_output_contents[0] == np.full((rows, 3), version - 1, np.float32).tobytes()


def test_grpc_infer_classifies_and_selects_outputs(client: triton.InferenceServerClient) -> None:
    outputs = [triton.InferRequestedOutput("logits", class_count=2)]
    answer = client.infer("digits", [tensor(PICTURE)], outputs=outputs, model_version="1")
    assert answer.as_numpy("logits").tolist() == [[b"0.000000:0:zero", b"0.000000:1:one"]]
    assert answer.get_response().model_version == "1"


def test_grpc_infer_takes_compressed_messages(client: triton.InferenceServerClient) -> None:
    assert client.infer("digits", [tensor(PICTURE)], compression_algorithm="gzip").as_numpy("logits").shape == (1, 3)


def bad_requests() -> dict[str, tuple[ModelInferRequest | bytes, str]]:
    """Return requests by what is wrong with them, and a part of the sentence that they are answered with."""

    def of(model: str = "digits", **fields: Any) -> ModelInferRequest:
        return ModelInferRequest(model_name=model, **fields)

    def one(datatype: str = "FP32", shape: Any = (1, 1, 4, 4), name: str = "input", **contents: Any) -> Any:
        return {"name": name, "datatype": datatype, "shape": shape, "contents": contents or None}

    def text(value: str) -> dict[str, Any]:
        return {"string_param": value}

    raw, short = [bytes(64)], [0.0] * 16
    region = {"shared_memory_region": text("x")}
    in_memory = {"name": "input", "datatype": "FP32", "shape": (1, 1, 4, 4), "parameters": region}
    return {
        "bytes": (b"\xff\xff", "not a ModelInferRequest"),
        "large bytes": (b"\xff" * 2 * INLINE_BYTES, "not a ModelInferRequest"),
        "cut off": (b"\x3a\xff\xff\x7f" + bytes(2 * INLINE_BYTES), "not a ModelInferRequest"),
        "no inputs": (of(), "input 'input' is missing"),
        "two raws": (of(inputs=[one()], raw_input_contents=raw * 2), "2 raw_input_contents for 1 inputs"),
        "both": (of(inputs=[one(fp32_contents=short)], raw_input_contents=raw), "both contents and raw"),
        "short raw": (of(inputs=[one()], raw_input_contents=[b"1"]), "has 1 bytes where FP32"),
        "short": (of(inputs=[one(fp32_contents=[0.0])]), "has 1 values where its shape"),
        "field": (of(inputs=[one(fp64_contents=short)]), "belong into fp32_contents"),
        "shape": (of(inputs=[one(shape=(1, 4), fp32_contents=short)]), "the model takes [-1, 1, 4, 4]"),
        "negative": (of(inputs=[one(shape=(-1, 1, 4, 4))], raw_input_contents=raw), "not a list of non-negative"),
        "datatype": (of(inputs=[one("FP64", fp64_contents=short)]), "the model takes FP32"),
        "no datatype": (of(inputs=[one("X")], raw_input_contents=raw), "the protocol knows"),
        "name": (of(inputs=[one(name="x")], raw_input_contents=raw), "There is no input 'x'"),
        "output": (of(inputs=[one()], raw_input_contents=raw, outputs=[{"name": "x"}]), "There is no output 'x'"),
        "range": (of("identity-int8", inputs=[one("INT8", (1, 1), int_contents=[128])]), "does not fit INT8"),
        "fp16": (of("identity-fp16", inputs=[one("FP16", (1, 1))]), "FP16, which has no typed contents"),
        "utf-8": (of("identity-bytes", inputs=[one("BYTES", (1, 1), bytes_contents=[b"\xff"])]), "not UTF-8"),
        "memory": (of(inputs=[in_memory]), "Input 'input' has a shared_memory_region"),
        "memory of fp16": (
            of("identity-fp16", inputs=[in_memory | {"datatype": "FP16"}]),
            "has a shared_memory_region",
        ),
        "memory of one": (
            of("pair", inputs=[in_memory | {"name": "count"}, one(name="flag")], raw_input_contents=raw),
            "Input 'count' has a shared_memory_region",
        ),
        "memory of an output": (
            of(inputs=[one()], raw_input_contents=raw, outputs=[{"name": "logits", "parameters": region}]),
            "Output 'logits' has a shared_memory_region",
        ),
        "parameter": (of(inputs=[one()], raw_input_contents=raw, parameters={"timeout": text("x")}), "timeout is not"),
    }


@pytest.mark.parametrize("kind", bad_requests())
def test_grpc_infer_names_what_is_wrong(channel: grpc.Channel, kind: str) -> None:
    request, sentence = bad_requests()[kind]
    code, text = refused(channel, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT, text
    assert sentence in text


def test_grpc_infer_names_an_unknown_model_with_the_id(client: triton.InferenceServerClient) -> None:
    for arguments in ({"model_name": "none"}, {"model_name": "digits", "model_version": "9"}):
        with pytest.raises(InferenceServerException, match=r"NOT_FOUND\] \[request id: 7\] There is no"):
            client.infer(inputs=[tensor(PICTURE)], request_id="7", **arguments)


@pytest.mark.parametrize("character", ["x", "é", "\N{GRINNING FACE}"])
def test_grpc_infer_cuts_the_text_of_an_error(channel: grpc.Channel, character: str) -> None:
    code, text = refused(channel, ModelInferRequest(model_name="none", id=character * 90_000))
    assert code is grpc.StatusCode.NOT_FOUND, text
    assert 990 < len(text.encode()) <= 1000
    assert text.endswith(f"{character}…")


@pytest.mark.slow
@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_grpc_infer_limits_messages_as_http_does_bodies(channel: grpc.Channel, compression: grpc.Compression) -> None:
    request = ModelInferRequest(model_name="digits", raw_input_contents=[bytes(400_000)])
    assert refused(channel, request, compression=compression)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_grpc_infer_is_logged_and_counted_as_http_is(
    grpc_service: Service, channel: grpc.Channel, access_log: AccessLog
) -> None:
    def count() -> int:
        statistics = grpc_service.client.get("/v2/models/digits/versions/1/stats").json()["model_stats"][0]
        return int(statistics["inference_stats"]["success"]["count"])

    request = ModelInferRequest(model_name="digits", model_version="1", id="7", raw_input_contents=[bytes(64)])
    request.inputs.add(name="input", datatype="FP32", shape=[1, 1, 4, 4])
    trace_id, before = "0123456789abcdef0123456789abcdef", count()
    metadata = (("x-request-id", "grpc-7"), ("traceparent", f"00-{trace_id}-0123456789abcdef-01"))
    response, call = channel.unary_unary(INFER).with_call(request.SerializeToString(), metadata=metadata)
    assert ModelInferResponse.FromString(response).id == "7"
    assert ("x-request-id", "grpc-7") in [tuple(one) for one in call.trailing_metadata()]
    facts = access_log.facts_of("grpc-7")
    assert facts | {"path": INFER, "status": 200, "model": "digits", "id": "7", "rows": 1} == facts
    assert facts["trace_id"] == trace_id
    assert count() == before + 1


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:4711", "192.0.2.1"),
        ("ipv6:[2001:db8::1]:4711", "2001:db8::1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[fe80::1%25eth0]:4711", "fe80::1"),
        ("unix:", ""),
        ("unix:/run/service.sock", ""),
        ("", ""),
    ],
)
def test_grpc_peer_is_an_address_or_this_machine(peer: str, address: str) -> None:
    assert peer_address(peer) == address


@pytest.mark.parametrize(("trusted", "from_proxy"), [("127.0.0.1", True), ("192.0.2.9", False), (None, False)])
def test_grpc_access_line_has_the_client_as_http_has(
    bundles: BundleWriter, access_log: AccessLog, trusted: str | None, from_proxy: bool
) -> None:
    bundles.digits()
    chosen: dict[str, Any] = {} if trusted is None else {"proxy_headers": True, "forwarded_allow_ips": (trusted,)}
    settings = Settings(repository=bundles.root, provider="cpu", grpc_port=0, **chosen)
    cases: dict[tuple[tuple[str, str], ...], str] = {
        (("x-forwarded-for", "203.0.113.7"),): "203.0.113.7",
        (("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "203.0.113.7")): "203.0.113.7",
        (("x-forwarded-for", "203.0.113.7, 127.0.0.1"), ("x-real-ip", "1.2.3.4")): "203.0.113.7",
        (("x-real-ip", "2001:db8::1"),): "2001:db8::1",
        (("x-real-ip", "nonsense"),): "127.0.0.1",
        (): "127.0.0.1",
    }
    with serve_app(create_app(settings), settings) as service:
        service.wait_until_loaded()
        with grpc.insecure_channel(f"127.0.0.1:{service.app.state.grpc_server.port}") as channel:
            for number, metadata in enumerate(cases):
                call = channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")
                call(b"", metadata=(*metadata, ("x-request-id", f"r{number}")))
            if trusted is None:
                assert "client" not in access_log.facts_of("r0")
                return
            found = [access_log.facts_of(f"r{number}")["client"] for number in range(len(cases))]
    assert found == (list(cases.values()) if from_proxy else ["127.0.0.1"] * len(cases))


def test_grpc_infer_takes_raw_contents_beside_empty_typed_ones(channel: grpc.Channel) -> None:
    request = ModelInferRequest(model_name="identity-fp32", raw_input_contents=[np.array([1, 2], np.float32).tobytes()])
    tensor = request.inputs.add(name="input", datatype="FP32", shape=[1, 2])
    tensor.contents.SetInParent()
    response = ModelInferResponse.FromString(channel.unary_unary(INFER)(request.SerializeToString()))
    assert np.frombuffer(response.raw_output_contents[0], np.float32).tolist() == [1, 2]

"""Properties of every route: form of errors, limits, request ids, OpenAPI pages."""

from __future__ import annotations

import inspect
import json
import logging
import socket
import threading
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import helper

from normfold.contract import bundle, manifest, onnxruntime_package, preprocess
from normfold.contract import errors as contract_errors
from normfold.contract.errors import NormfoldError
from normfold.contract.manifest import TensorSpec
from normfold.contract.preprocess import ImagePreprocessing
from normfold.contract.source_card import SourceCard
from normfold.service import errors
from normfold.service.error_responses import STATUS, WITHOUT_STATUS
from normfold.service.errors import RunError
from normfold.service.http import body as body_module
from normfold.service.repository.loaded_model import Model
from normfold.service.runtime.session import Session
from tests.support.bundles import BundleWriter
from tests.support.infer_bodies import PICTURE
from tests.support.raw_http import connect
from tests.support.service import AccessLog, Service, StartService

PATHS = ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/digits", "/v2/models/digits/ready", "/v1/models"]


def test_every_error_has_a_status_or_ends_no_request() -> None:
    modules = (bundle, contract_errors, manifest, preprocess, onnxruntime_package, errors)
    raised = {
        kind
        for module in modules
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, NormfoldError)
    }
    assert raised == STATUS.keys() | WITHOUT_STATUS
    assert not STATUS.keys() & WITHOUT_STATUS


def exchange(served: Service, sent: bytes) -> tuple[int, Any]:
    """Send bytes, and return status and JSON of the response that ends the connection."""
    port = httpx.URL(served.client.base_url).port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(sent)
        response = connection.makefile("rb").read()
    head, body = response.split(b"\r\n\r\n", 1)
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize("path", [*PATHS, "/v2/models/digits/versions/1", "/v2/models/digits/versions/1/ready"])
def test_get_routes_return_json(served: Service, path: str) -> None:
    response = served.client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert "error" not in response.json()


def test_metadata_has_the_protocols_fields(served: Service) -> None:
    server = served.client.get("/v2").json()
    assert server.keys() == {"name", "version", "extensions", "providers"}
    assert server["providers"] == ["cpu"]
    assert served.client.get("/v2/models/digits").json() == {
        "name": "digits",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 4, 4]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
    }


def test_list_of_models_describes_their_inputs(served: Service) -> None:
    models = {model["name"]: model["versions"] for model in served.client.get("/v1/models").json()["models"]}
    assert [version["version"] for version in models["digits"]] == ["1", "2"]
    assert models["digits"][0]["labels"] == ["zero", "one", "two"]
    assert models["digits"][0]["provider"] == "cpu"
    assert models["rows"][0]["preprocessing"]["columns"] == ["age", "income"]


@pytest.mark.parametrize("path", ["/v2/models/digits/infer%0A", "/v1/models/digits:predict%0A", "/v2/models/digits%0A"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_path_that_ends_in_a_line_feed_is_404(served: Service, method: str, path: str) -> None:
    target = httpx.URL(served.client.base_url).copy_with(raw_path=path.encode())
    assert served.client.request(method, target, content=b"{}").status_code == 404


@pytest.mark.parametrize(
    "path", ["/nothing", "/v2//", "/v1/models/digits/x", "/v1/models/digits:explain", "/v2/models"]
)
def test_unknown_path_is_404(served: Service, path: str) -> None:
    response = served.client.get(path)
    assert response.status_code == 404
    assert response.json() == {"error": f"There is no path {path!r}; GET /docs lists the routes."}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/models/{}"),
        ("GET", "/v2/models/{}/ready"),
        ("POST", "/v2/models/{}/infer"),
        ("POST", "/v1/models/{}:predict"),
        ("POST", "/v1/models/{}:classify"),
    ],
)
@pytest.mark.parametrize(
    "model",
    ["none", "%2e%2e", "%2e%2e%2fetc", "digits/versions/3", "digits/versions/01", "digits/versions/" + "9" * 5000],
)
def test_unknown_model_or_version_is_404(served: Service, method: str, path: str, model: str) -> None:
    target = httpx.URL(served.client.base_url).copy_with(raw_path=path.format(model).encode())
    response = served.client.request(method, target, content=b'{"inputs": [], "instances": [1]}')
    assert response.status_code == 404
    assert response.json().keys() == {"error"}
    assert response.json()["error"].startswith("There is no")


@pytest.mark.parametrize("path", [*PATHS, "/v2/models/digits/infer", "/v1/models/digits:predict"])
def test_wrong_method_is_405_and_says_which(served: Service, path: str) -> None:
    response = served.client.delete(path)
    assert response.status_code == 405
    assert response.headers["allow"] in ("GET, HEAD", "POST")
    assert response.json() == {
        "error": f"The path {path!r} does not support DELETE; it supports {response.headers['allow']}."
    }


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost\r\n\r\n",  # no Host
    ],
)
def test_malformed_request_is_400_in_the_form_of_every_error(served: Service, sent: bytes) -> None:
    assert exchange(served, sent) == (400, {"error": "Invalid HTTP request received."})


def test_broken_chunk_during_an_error_response_ends_the_connection(
    served: Service, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    port = httpx.URL(served.client.base_url).port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head + b"186a1\r\n" + b" " * 100_001)
        file = connection.makefile("rb")
        assert file.readline().startswith(b"HTTP/1.1 413")
        connection.sendall(b"\r\nno length\r\n")
        assert file.read().endswith(b"}")
    assert served.client.get("/v2").status_code == 200
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


@pytest.mark.parametrize("declared", [True, False])
def test_client_that_sends_its_whole_body_first_receives_the_413(served: Service, declared: bool) -> None:
    body = bytes(20_000_000)  # more than the system's buffers hold
    length = b"Content-Length: %d" % len(body) if declared else b"Transfer-Encoding: chunked"
    sent = body if declared else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    status, response = exchange(
        served, b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n" + sent
    )
    assert status == 413
    assert response == {"error": "The body is over the limit of 100,000 bytes."}


def test_declared_body_over_the_limit_is_413_before_it_is_read(
    served: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_module, "DRAIN_TIMEOUT_S", 0.1)
    status, body = exchange(
        served, b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n"
    )
    assert status == 413
    assert body == {"error": "The body is over the limit of 100,000 bytes."}


def test_chunked_body_over_the_limit_is_413_while_it_arrives(served: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "DRAIN_TIMEOUT_S", 0.1)
    head = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    status, body = exchange(
        served, head + b"186a1\r\n" + b" " * 100_001
    )  # without an end: the response comes before it
    assert status == 413
    assert body == {"error": "The body is over the limit of 100,000 bytes."}


def test_body_at_the_limit_is_read(served: Service) -> None:
    response = served.client.post("/v2/models/digits/infer", content=b" " * 100_000)
    assert response.status_code == 400


def test_fault_is_500_with_its_reason_in_the_log_only(
    served: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def die(*_: Any) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Model, "infer", die)
    response = served.client.post(
        "/v1/models/rows:predict", json={"instances": [[1, 2]]}, headers={"X-Request-Id": "find-me"}
    )
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "find-me"
    assert response.json().keys() == {"error"}
    assert "find-me" in response.json()["error"]
    assert "planted" not in response.text
    assert "Traceback" not in response.text
    assert any(record.exc_info and "planted" in str(record.exc_info[1]) for record in caplog.records)


@pytest.mark.parametrize("free", [True, False])
def test_run_that_fails_on_the_tensors_of_a_request_is_422_without_onnx_runtimes_message(
    bundles: BundleWriter, start: StartService, caplog: pytest.LogCaptureFixture, free: bool
) -> None:
    values = [TensorSpec(name=name, datatype="INT64", shape=(-1, -1 if free else 2)) for name in ("input", "output")]
    node = helper.make_node("Reshape", ["input", "shape"], ["output"])
    bundles.write("m", 1, [node], values[:1], values[1:], {"shape": np.array([1, 2], np.int64)}, batchable=False)
    service = start(bundles.root)
    body = {"inputs": [{"name": "input", "datatype": "INT64", "shape": [3, 2], "data": [1] * 6}]}
    response = service.client.post("/v2/models/m/infer", json=body)
    assert response.status_code == 422
    assert response.json()["error"].startswith("The network fails on these tensors")
    assert any("Reshape" in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert 'requests_total{model="m",status="422",version="1"} 1.0' in service.client.get("/metrics").text


def test_run_that_fails_whatever_the_tensors_is_500_without_onnx_runtimes_message(
    bundles: BundleWriter, start: StartService, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, fails = Session.run, threading.Event()

    def run(*arguments: Any) -> Any:
        if fails.is_set():
            raise RunError("planted")
        return right(*arguments)

    monkeypatch.setattr(Session, "run", run)
    bundles.digits()
    service = start(bundles.root)
    fails.set()
    response = service.client.post("/v2/models/digits/infer", json=PICTURE)
    assert response.status_code == 500
    assert response.json()["error"].startswith("The network failed while it ran")
    assert any("planted" in record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)


@pytest.mark.parametrize(("given", "kept"), [("a-1.B:2", True), ("a b", False), ("", False), ("x" * 129, False)])
def test_request_id_is_kept_if_valid_and_otherwise_made(
    served: Service, access_log: AccessLog, given: str, kept: bool
) -> None:
    answered = served.client.get("/v2/models/digits", headers={"X-Request-Id": given}).headers["x-request-id"]
    assert (answered == given) is kept
    assert answered
    facts = access_log.facts_of(answered)
    assert facts.pop("ms") > 0
    assert facts == {"method": "GET", "path": "/v2/models/digits", "status": 200, "model": "digits"}


def test_path_cannot_forge_a_log_line(served: Service, access_log: AccessLog) -> None:
    response = served.client.get("/x%0aERROR forged")
    message = access_log.wait_for(response.headers["x-request-id"]).getMessage()
    assert "ERROR forged" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "accept", ["text/html", "application/json, text/html;q=0.5", "Text/HTML,application/xhtml+xml,*/*;q=0.8"]
)
def test_root_is_a_page_for_browsers(served: Service, accept: str) -> None:
    response = served.client.get("/", headers={"Accept": accept})
    assert (response.status_code, response.headers["vary"]) == (200, "Accept")
    assert "<title>Normfold</title>" in response.text


@pytest.mark.parametrize("accept", ["*/*", "", "application/json", "text/*", "text/html;q=0", "text/html; q=0.000"])
def test_root_says_that_the_process_is_alive(served: Service, accept: str) -> None:
    response = served.client.get("/", headers={"Accept": accept})
    assert (response.status_code, response.headers["vary"]) == (200, "Accept")
    assert response.json() == {"status": "alive"}


def test_metadata_has_the_literal_path_of_the_protocol_too(served: Service) -> None:
    assert served.client.get("/v2/").json() == served.client.get("/v2").json()
    assert served.client.get("/v2//").status_code == 404


@pytest.mark.parametrize("path", ["/v1/models/digits", "/v1/models/digits/versions/2"])
def test_model_is_ready_by_the_first_protocol(served: Service, path: str) -> None:
    assert served.client.get(path).json() == {"name": "digits", "ready": True}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/v1/models/none", 404), ("/v1/models/digits/versions/9", 404), ("/v1/models/", 404)),
        *(("/v1/models/digits:predict", 405), ("/v1/models/digits/versions/1:classify", 405)),
    ],
)
def test_other_paths_of_the_first_protocol_are_no_model(served: Service, path: str, status: int) -> None:
    response = served.client.get(path)
    assert response.status_code == status
    assert response.headers.get("allow") == ("POST" if status == 405 else None)


def test_model_that_is_not_ready_is_503_by_the_first_protocol(bundles: BundleWriter, start: StartService) -> None:
    (bundles.digits() / "model.onnx").write_bytes(b"")
    response = start(bundles.root).client.get("/v1/models/digits")
    assert response.status_code == 503
    assert response.json()["ready"] is False
    assert "is not ready" in response.json()["error"]


@pytest.mark.slow
def test_head_has_the_headers_of_get_on_every_route(served: Service) -> None:
    paths = [
        path for path, operations in served.client.get("/openapi.json").json()["paths"].items() if "get" in operations
    ]
    assert len(paths) > 15
    with connect(served.client) as connection:
        for path in [*paths, "/docs", "/openapi.json", "/v2/", "/v2/models/none", "/v2/models/none/stats"]:
            chosen = path.replace("{model}", "digits").replace("{version}", "1")
            get = served.client.get(chosen)
            head = served.client.head(chosen)
            assert head.status_code == get.status_code != 405, path
            assert head.content == b""
            changing = {"date", "x-request-id"} | ({"content-length"} if path == "/metrics" else set())
            for response in (get, head):
                for name in changing:
                    response.headers.pop(name, None)
            assert head.headers == get.headers, path
        connection.sendall(b"HEAD /v2/models/none HTTP/1.1\r\nHost: x\r\n\r\n" * 2)  # nothing follows the head
        connection.sendall(b"HEAD /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        raw = b"".join(iter(lambda: connection.recv(65536), b""))
    assert [part[:12] for part in raw.split(b"\r\n\r\n")] == [b"HTTP/1.1 404", b"HTTP/1.1 404", b"HTTP/1.1 200", b""]


@pytest.mark.parametrize("path", ["/v2/models/digits/infer", "/v1/models/digits:predict", "/v2/repository/index"])
def test_head_is_405_where_there_is_no_get(served: Service, path: str) -> None:
    response = served.client.head(path)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_head_is_logged_as_head(served: Service, access_log: AccessLog) -> None:
    response = served.client.head("/v2")
    assert access_log.facts_of(response.headers["x-request-id"])["method"] == "HEAD"


def test_405_names_head_wherever_there_is_get(served: Service) -> None:
    response = served.client.delete("/v2")
    assert response.headers["allow"] == "GET, HEAD"
    assert response.json()["error"].endswith("it supports GET, HEAD.")


def test_openapi_document_has_every_route_and_the_status_422_only_where_a_network_runs(served: Service) -> None:
    document = served.client.get("/openapi.json").json()
    paths = document["paths"]
    for prefix, suffix in [
        ("/v2", ""),
        ("/v2", "/ready"),
        ("/v2", "/infer"),
        ("/v1", ":predict"),
        ("/v1", ":classify"),
    ]:
        for version in ("", "/versions/{version}"):
            [operation] = paths[f"{prefix}/models/{{model}}{version}{suffix}"].values()
            assert operation["description"]
            named = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
            assert named == ({"model", "version"} if version else {"model"})
    with_422 = {
        path.rpartition("/")[2].rpartition(":")[2]
        for path, operations in paths.items()
        for operation in operations.values()
        if "422" in operation["responses"]
    }
    assert with_422 == {"infer", "predict", "classify"}
    identities = [operation["operationId"] for operations in paths.values() for operation in operations.values()]
    assert len(set(identities)) == len(identities)


def test_examples_of_the_openapi_document_are_served(bundles: BundleWriter, start: StartService) -> None:
    preprocessing = ImagePreprocessing(channels=1, height=8, width=8, value_max=16, mean=(0.305,), std=(1,))
    bundles.write(
        "digits",
        1,
        [helper.make_node("GlobalAveragePool", ["input"], ["pool"]), helper.make_node("Flatten", ["pool"], ["logits"])],
        [TensorSpec(name="input", datatype="FP32", shape=(-1, 1, 8, 8))],
        [TensorSpec(name="logits", datatype="FP32", shape=(-1, 1))],
        card=SourceCard(preprocessing=preprocessing, labels=("0",), logits=("logits",)),
    )
    client = start(bundles.root).client
    paths = client.get("/openapi.json").json()["paths"]
    responses = {}
    for path in ("/v2/models/{model}/infer", "/v1/models/{model}:predict"):
        example = paths[path]["post"]["requestBody"]["content"]["application/json"]["example"]
        response = client.post(path.format(model="digits"), json=example)
        assert response.status_code == 200, response.text
        responses[path] = response.json()
        shown = paths[path]["post"]["responses"]["200"]["content"]["application/json"]["example"]
        assert responses[path].keys() == shown.keys()

"""The trace id of a request in log lines, and its spans."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from normfold.service.app import create_app
from normfold.service.inference import infer_call
from normfold.service.logs import TRACE_ID
from normfold.service.observability.otel import Spans
from normfold.service.observability.request_trace import CLIENT_DISCONNECTED
from normfold.service.observability.trace_context import read_trace_id
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter
from tests.support.infer_bodies import PICTURE, png_of
from tests.support.raw_http import INFER_HEAD, connect
from tests.support.service import AccessLog, HeldRuns, LogRecords, Service, serve_app
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
INSTANCES = {"instances": [[[0.0] * 4] * 4]}


class Traced:
    """A service, and the spans that it made."""

    def __init__(self, service: Service, spans: Spans, exporter: InMemorySpanExporter) -> None:
        self.service, self.client, self._spans, self._exporter = service, service.client, spans, exporter

    def of(self, request_id: str) -> list[ReadableSpan]:
        """Return a request's own span, and then its children in the order of their begin."""
        found: list[ReadableSpan] = []

        def arrived() -> bool:  # a request's spans are made after its answer is out
            self._spans.flush()
            done = self._exporter.get_finished_spans()
            found[:] = [span for span in done if attributes(span).get("normfold.request_id") == request_id]
            return bool(found)

        wait_for(arrived)
        (root,) = found
        done = self._exporter.get_finished_spans()
        children = [span for span in done if span.parent and span.parent.span_id == root.context.span_id]
        return [root, *sorted(children, key=lambda span: span.start_time or 0)]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.fixture
def traced(bundles: BundleWriter) -> Iterator[Traced]:
    """A traced service of `digits` and of a model whose rows run one by one."""
    bundles.digits()
    bundles.one_by_one()
    exporter = InMemorySpanExporter()
    spans, settings = Spans(exporter), Settings(repository=bundles.root, provider="cpu", tracing=True)
    with serve_app(create_app(settings, spans), settings) as service:
        service.wait_until_loaded()
        yield Traced(service, spans, exporter)


@pytest.mark.parametrize("sent", [SAMPLED.encode(), f" {SAMPLED}\t".encode(), f"cc-{TRACE}-{PARENT}-01-more".encode()])
def test_trace_id_is_read_from_traceparent(sent: bytes) -> None:
    assert read_trace_id(sent) == TRACE


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "nonsense",
        SAMPLED.upper(),
        f"{SAMPLED}-more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"cc-{TRACE}-{PARENT}-01-{'x' * 500}",
        f'00-{TRACE[:-1]}"-{PARENT}-01',
    ],
)
def test_malformed_traceparent_is_ignored(sent: str) -> None:
    assert read_trace_id(sent.encode()) is None


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_log_lines_carry_the_trace_id_without_opentelemetry(
    bundles: BundleWriter, start: Any, tmp_path: Path, named: bool
) -> None:
    bundles.digits()
    path = tmp_path / "access.log"
    service = start(bundles.root, access_log=path)
    headers = {"traceparent": SAMPLED if named else "nonsense"}

    service.client.post("/v2/models/digits/infer", json=PICTURE, headers=headers)
    service.client.get("/v2/models/none", headers=headers)

    wait_for(lambda: path.read_text().count("infer") + path.read_text().count("none") >= 2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = [line.get("trace_id") for line in lines if line["path"] in ("/v2/models/digits/infer", "/v2/models/none")]
    assert found == ([TRACE] * 2 if named else [None] * 2)


def test_every_log_line_of_a_request_carries_its_trace_id(
    traced: Traced, access_log: AccessLog, lines: LogRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infer_call, "encode_response", lambda *_: 1 / 0)
    answer = traced.client.post("/v2/models/digits/infer", json=PICTURE, headers={"traceparent": SAMPLED})
    access_log.wait_for(answer.headers["x-request-id"])

    assert answer.status_code == 500
    wait_for(lambda: any(line.get("status") == 500 for line in lines.formatted))
    mine = [line for line in lines.formatted if line.get("request_id") == answer.headers["x-request-id"]]
    assert [line["level"] for line in mine] == ["error", "info"]
    assert {line["trace_id"] for line in mine} == {TRACE}
    assert TRACE_ID.get() is None


@pytest.mark.parametrize("route", ["infer", ":predict", ":classify"])
def test_request_has_a_span_with_its_phases_as_children(traced: Traced, route: str) -> None:
    headers = {"traceparent": SAMPLED, "tracestate": "vendor=1", "X-Request-Id": "mine"}
    if route == "infer":
        path = "/v2/models/digits/versions/1/infer"
        answer = traced.client.post(path, json=PICTURE, headers=headers)
    elif route == ":predict":
        path = "/v1/models/digits/versions/1:predict"
        answer = traced.client.post(path, json=INSTANCES, headers=headers)
    else:
        path = "/v1/models/digits/versions/1:classify"
        answer = traced.client.post(path, content=png_of(np.zeros((4, 4))), headers=headers)
    assert answer.status_code == 200

    root, *children = traced.of("mine")

    pattern = path.replace("digits", "{model}").replace("versions/1", "versions/{version}")
    assert (root.name, root.kind) == (f"POST {pattern}", SpanKind.SERVER)
    assert (f"{root.context.trace_id:032x}", f"{root.parent.span_id:016x}") == (TRACE, PARENT)  # type: ignore[union-attr]
    assert root.parent.is_remote  # type: ignore[union-attr]
    assert root.context.trace_state.get("vendor") == "1"
    assert root.status.status_code == StatusCode.UNSET
    assert attributes(root) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": pattern,
        "url.path": path,
        "url.scheme": "http",
        "normfold.model": "digits",
        "normfold.version": 1,
        "normfold.rows": 1,
        "normfold.request_id": "mine",
    }
    assert [child.name for child in children] == ["decode", "queue", "run", "encode"]
    times = [root.start_time, *(time for child in children for time in (child.start_time, child.end_time))]
    times.append(root.end_time)
    assert times == sorted(times)  # type: ignore[type-var]
    assert attributes(children[2]) == {"normfold.batch_rows": 1}
    assert root.resource.attributes["service.name"] == "normfold"


def test_rows_that_run_singly_have_one_run_span(traced: Traced, access_log: AccessLog) -> None:
    body = {"instances": [[2.0], [6.0], [7.0]]}
    answer = traced.client.post("/v1/models/one-by-one:predict", json=body)
    assert answer.status_code == 200

    root, *children = traced.of(answer.headers["x-request-id"])

    assert attributes(root)["normfold.rows"] == 3
    assert [child.name for child in children] == ["decode", "queue", "run", "encode"]
    facts = access_log.facts_of(answer.headers["x-request-id"])
    assert facts["rows"] == 3
    assert {"decode_ms", "queue_ms", "run_ms", "encode_ms"} <= facts.keys()
    [stats] = traced.client.get("/v2/models/one-by-one/stats").json()["model_stats"]
    assert stats["execution_count"] == 3
    assert {name: one["count"] for name, one in stats["inference_stats"].items()} == {
        **dict.fromkeys(("success", "queue", "compute_input", "compute_infer", "compute_output"), 1),
        "fail": 0,
    }


@pytest.mark.parametrize("header", [None, "nonsense", f"00-{'0' * 32}-{PARENT}-01"])
def test_request_without_a_parent_starts_a_trace(traced: Traced, access_log: AccessLog, header: str | None) -> None:
    headers = {} if header is None else {"traceparent": header}
    answer = traced.client.get("/v2/models/digits", headers=headers)

    [root] = traced.of(answer.headers["x-request-id"])

    assert root.parent is None
    line = access_log.facts_of(answer.headers["x-request-id"])
    assert line["trace_id"] == f"{root.context.trace_id:032x}"
    assert int(line["trace_id"], 16) != 0


def test_unsampled_parent_is_respected(traced: Traced, access_log: AccessLog) -> None:
    left_out = traced.client.get("/v2/models/digits", headers={"traceparent": NOT_SAMPLED, "X-Request-Id": "out"})
    traced.client.get("/v2/models/digits", headers={"traceparent": SAMPLED, "X-Request-Id": "in"})

    assert left_out.status_code == 200
    assert len(traced.of("in")) == 1
    assert not [one for one in traced._exporter.get_finished_spans() if attributes(one)["normfold.request_id"] == "out"]
    assert access_log.facts_of("out")["trace_id"] == TRACE


def test_tracestate_headers_are_joined_and_a_long_one_is_dropped(traced: Traced) -> None:
    parts = [("traceparent", SAMPLED), ("tracestate", "a=1"), ("tracestate", "b=2")]
    traced.client.get("/v2", headers=[*parts, ("X-Request-Id", "parts")])
    traced.client.get("/v2", headers={"traceparent": SAMPLED, "tracestate": "a=" + "1" * 600, "X-Request-Id": "long"})

    assert dict(traced.of("parts")[0].context.trace_state) == {"a": "1", "b": "2"}
    assert not traced.of("long")[0].context.trace_state
    assert traced.of("long")[0].parent is not None


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "name", "phases"),
    [
        ("POST", "/v2/models/digits/infer", {"inputs": []}, 400, "POST /v2/models/{model}/infer", ["decode"]),
        ("POST", "/v1/models/digits:predict", {}, 400, "POST /v1/models/{model}:predict", ["decode"]),
        ("POST", "/v2/models/none/infer", {}, 404, "POST /v2/models/{model}/infer", []),
        ("GET", "/nothing", None, 404, "GET", []),
        ("PURGE", "/v2", None, 405, None, []),
    ],
)
def test_client_error_does_not_set_the_span_status(
    traced: Traced, method: str, path: str, body: Any, status: int, name: str | None, phases: list[str]
) -> None:
    answer = traced.client.request(method, path, json=body, headers={"X-Request-Id": "mine"})
    assert answer.status_code == status

    root, *children = traced.of("mine")

    assert name is None or root.name == name
    assert root.status.status_code == StatusCode.UNSET
    assert attributes(root)["http.response.status_code"] == status
    assert "error.type" not in attributes(root)
    assert [child.name for child in children] == phases
    if method == "PURGE":
        assert root.name.startswith("HTTP")
        assert attributes(root)["http.request.method"] == "_OTHER"
        assert attributes(root)["http.request.method_original"] == "PURGE"


def test_server_error_sets_the_span_status(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infer_call, "encode_response", lambda *_: 1 / 0)
    answer = traced.client.post("/v2/models/digits/infer", json=PICTURE, headers={"X-Request-Id": "mine"})
    assert answer.status_code == 500

    root, *children = traced.of("mine")

    assert root.status.status_code == StatusCode.ERROR
    assert (attributes(root)["http.response.status_code"], attributes(root)["error.type"]) == (500, "500")
    assert [child.name for child in children] == ["decode", "queue", "run", "encode"]
    assert children[-1].end_time == root.end_time


@pytest.mark.parametrize("route", ["infer", ":predict"])
def test_disconnected_client_has_a_span_without_an_http_status(
    bundles: BundleWriter, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    bundles.digits()
    slow, exporter = HeldRuns(monkeypatch), InMemorySpanExporter()
    spans, settings = Spans(exporter), Settings(repository=bundles.root, provider="cpu")
    body = json.dumps(PICTURE if route == "infer" else INSTANCES).encode()
    head = (
        INFER_HEAD.replace(b"/v2/models/digits/infer", b"/v1/models/digits:predict") if route != "infer" else INFER_HEAD
    )
    with serve_app(create_app(settings, spans), settings) as service:
        service.wait_until_loaded()
        slow.holds.set()
        with connect(service.client) as connection:
            connection.sendall(head % (len(body), b"X-Request-Id: leaver\r\n") + body)
            assert slow.running.wait(timeout=20)

        root, *children = Traced(service, spans, exporter).of("leaver")

        assert slow.cancels[0].is_set
        slow.go_on.set()
        wait_for(lambda: f'status="{CLIENT_DISCONNECTED}"' in service.client.get("/metrics").text)
    assert root.status.status_code == StatusCode.UNSET
    assert attributes(root)["error.type"] == "client_disconnected"
    assert "http.response.status_code" not in attributes(root)
    assert [child.name for child in children] == ["decode", "queue", "run"]
    assert children[-1].end_time == root.end_time

"""Export of spans: to the collector that OpenTelemetry's variables name, and without one."""

from __future__ import annotations

import http.server
import logging
import socket
import sys
import threading
from typing import Any, ClassVar

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from normfold.contract.errors import MissingPackageError
from normfold.service.app import create_app
from normfold.service.errors import SettingsError
from normfold.service.observability import otel
from normfold.service.observability.otel import Spans
from normfold.service.observability.request_trace import RequestTrace
from normfold.service.observability.trace_context import open_tracing
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter
from tests.support.service import LogRecords, post_picture, serve_app
from tests.support.waiting import wait_for


@pytest.mark.slow
def test_absent_collector_costs_neither_time_nor_log_lines(
    bundles: BundleWriter, monkeypatch: pytest.MonkeyPatch, lines: LogRecords
) -> None:
    bundles.digits()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never answers
        monkeypatch.setattr(otel, "FLUSH_TIMEOUT_S", 0.1)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
        settings = Settings(repository=bundles.root, provider="cpu", tracing=True)
        with serve_app(create_app(settings), settings) as service:
            service.wait_until_loaded()
            for _ in range(50):
                assert post_picture(service).status_code == 200
    wait_for(
        lambda: not [thread for thread in threading.enumerate() if thread.name.startswith(("Otel", "normfold-sp"))]
    )
    assert not [record for record in lines.records if record.name.startswith(("opentelemetry", "urllib3"))]
    messages = [record.getMessage() for record in lines.records if record.name == "normfold.service.observability.otel"]
    assert len([line for line in messages if line.startswith("OpenTelemetry: ")]) <= 1
    assert [line for line in messages if "lost" in line] == [
        "The collector did not accept the last spans within 0.1 s; they are lost."
    ]


def test_opentelemetry_log_lines_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    Spans(InMemorySpanExporter()).close()
    source = logging.getLogger("opentelemetry.exporter.otlp")
    [handler] = [one for one in logging.getLogger("opentelemetry").handlers if isinstance(one, otel._LimitedHandler)]
    handler._silent_until = 0.0

    for number in range(5):
        source.warning("Cannot export batch %d.", number)

    lines = [record.getMessage() for record in caplog.records if record.name == "normfold.service.observability.otel"]
    assert lines == ["OpenTelemetry: Cannot export batch 0. (Its further lines are left out for 60 s.)"]


class _Collector(http.server.BaseHTTPRequestHandler):
    """Takes what is exported."""

    received: ClassVar[list[tuple[str, bytes]]]

    def do_POST(self) -> None:
        self.received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.slow
def test_spans_are_exported_to_the_collector_of_the_environment(
    bundles: BundleWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles.digits()

    class Collector(_Collector):
        received: ClassVar[list[tuple[str, bytes]]] = []

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
        settings = Settings(repository=bundles.root, provider="cpu", tracing=True)
        with serve_app(create_app(settings), settings) as service:
            service.wait_until_loaded()
            assert post_picture(service).status_code == 200
        collector.shutdown()  # the service has ended, so that all is sent
    [path] = {path for path, _ in Collector.received}
    sent = b"".join(body for _, body in Collector.received)
    assert path == "/v1/traces"
    assert b"service.name\x12\x06\n\x04mine" in sent
    assert b"POST /v2/models/{model}/infer" in sent


def test_otel_sdk_disabled_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = RequestTrace("r", method="GET", path="/v2", status=200, started=1.0, ended=2.0)
    for disabled in ("true", "false"):
        monkeypatch.setenv("OTEL_SDK_DISABLED", disabled)
        exporter = InMemorySpanExporter()
        spans = Spans(exporter)
        spans.record(trace, [], "http", "/v2")
        spans.close()
        assert len(exporter.get_finished_spans()) == (disabled == "false")


def test_missing_package_is_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)

    with pytest.raises(MissingPackageError, match=r"Tracing \(NORMFOLD_TRACING\) needs the package .*\.\[tracing\]"):
        create_app(Settings(tracing=True))


def test_invalid_otel_variable_is_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")

    with pytest.raises(SettingsError, match="A variable OTEL_… of OpenTelemetry is wrong: max_queue_size must be"):
        open_tracing()


def test_exporter_is_otlp_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/here")
    spans = open_tracing()
    processors = spans._provider._active_span_processor._span_processors
    exporter = processors[0].span_exporter  # type: ignore[attr-defined]
    spans.close()
    assert isinstance(exporter, OTLPSpanExporter)
    assert exporter._endpoint == "http://127.0.0.1:1/here"

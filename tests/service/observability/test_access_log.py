"""The access log: its lines, in a file and in the service's own log."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from normfold.service import logs
from normfold.service.batching.batch import QueuedRequest
from normfold.service.errors import SettingsError
from normfold.service.logs import JsonFormatter, configure_logging
from normfold.service.observability.access_line import JsonFormat, format_text, log_fields
from normfold.service.observability.access_log import (
    BatchedAccessLog,
    LoggerAccessLog,
    open_access_log,
)
from normfold.service.observability.request_trace import RequestTrace
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter
from tests.support.service import StartService, post_picture
from tests.support.waiting import wait_for


def answered(path: str = "/v2/models/m/infer", identity: str | None = None) -> RequestTrace:
    """Return the trace of a request that a network answered."""
    request = QueuedRequest({}, 3, ("y",), 0.0, queued_at=1.0, batched_at=1.5, run_started_at=1.75, run_ended_at=2.0)
    trace = RequestTrace("r", "m", 2, identity, path=path, started=0.5, received=0.75, decoded=1.0)
    trace.encoded, trace.ended, trace.status, trace.queued_request = 2.125, 2.25, 200, request
    return trace


def rejected(path: str) -> RequestTrace:
    """Return the trace of a request that was answered with 404."""
    trace = RequestTrace("r", path=path, method="GET", started=1.0)
    trace.ended, trace.status = 1.5, 404
    return trace


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Restore the configuration of logging behind the test."""
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn.error")
    handlers, level, other = root.handlers[:], root.level, uvicorn.level
    yield
    root.handlers[:], uvicorn.level = handlers, other
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.mark.slow
def test_access_log_has_a_line_for_every_request(bundles: BundleWriter, start: StartService, tmp_path: Path) -> None:
    bundles.digits()
    path = tmp_path / "access.log"
    service = start(bundles.root, access_log=path)

    post_picture(service, id='say "ä"')
    service.client.get("/v2/models/none", headers={"X-Request-Id": "mine"})

    wait_for(lambda: path.read_text().count("infer") + path.read_text().count("none") >= 2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    infer = next(line for line in lines if line["path"].endswith("/infer"))
    assert infer.items() >= {"method": "POST", "status": 200, "model": "digits", "version": 1, "rows": 1}.items()
    assert infer["id"] == 'say "ä"'
    assert {"time", "request_id", "ms", "decode_ms", "queue_ms", "wait_ms", "run_ms", "encode_ms"} <= infer.keys()
    missing = next(line for line in lines if line["path"] == "/v2/models/none")
    assert missing.items() >= {"request_id": "mine", "status": 404, "method": "GET"}.items()


@pytest.mark.parametrize("of_service_log", [False, True])
@pytest.mark.parametrize("identity", [None, 'a"\\ü'])
def test_formatted_line_equals_the_json_line(identity: str | None, of_service_log: bool) -> None:
    line_format = JsonFormat(of_service_log=of_service_log)
    trace = answered(identity=identity)

    quick, slow = json.loads(line_format.format_inference(trace)), json.loads(line_format.format_any(trace))

    of_log = {"level", "logger", "message"} if of_service_log else set()
    assert list(quick) == list(slow)
    assert quick.keys() == {"time", "request_id", *log_fields(trace)} | of_log
    assert {key: quick[key] for key in quick if key != "time"} == {key: slow[key] for key in slow if key != "time"}


@pytest.mark.parametrize("trace", [answered(), rejected("/v2/models/none"), rejected("/a\n{}")], ids=lambda t: t.path)
def test_line_on_standard_error_equals_that_of_the_logger(
    trace: RequestTrace, caplog: pytest.LogCaptureFixture
) -> None:
    token = logs.REQUEST_ID.set(trace.request_id)
    with caplog.at_level(logging.INFO, "normfold.access"):
        LoggerAccessLog().write(trace)
        expected = json.loads(JsonFormatter().format(caplog.records[-1]))
    logs.REQUEST_ID.reset(token)

    line = JsonFormat(of_service_log=True)(trace)

    assert line.count(b"\n") == 1
    found = json.loads(line)
    assert found.pop("time")[-6:] == expected.pop("time")[-6:] == "+00:00"
    assert found == expected


def test_path_of_a_client_cannot_end_a_line_of_text() -> None:
    line = format_text(rejected("/a\n00:00:00 ERROR"))

    assert line.count(b"\n") == 1
    assert line.endswith(b" INFO    GET '/a\\n00:00:00 ERROR' 404 in 500.0 ms\n")


@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize("text", [False, True])
def test_service_that_logs_to_standard_error_writes_its_lines_there(
    text: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(log_format="text" if text else "json")
    configure_logging(settings)
    log = open_access_log(settings)
    assert isinstance(log, BatchedAccessLog)

    for _ in range(3):
        log.write(answered())
    log.close()
    logging.getLogger().handlers[0].flush()

    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(("INFO    POST /v2" in line) if text else json.loads(line)["model"] == "m" for line in lines)


def test_application_that_configures_logging_itself_gets_lines_through_it() -> None:
    assert isinstance(open_access_log(Settings()), LoggerAccessLog)


@pytest.mark.usefixtures("restored_logging")
def test_service_without_info_lines_writes_none(capfd: pytest.CaptureFixture[str]) -> None:
    settings = Settings(log_level="warning", log_format="json")
    configure_logging(settings)
    log = open_access_log(settings)

    log.write(answered())
    log.close()

    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("restored_logging")
def test_service_without_standard_error_serves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(log_format="json")
    monkeypatch.setattr(sys, "stderr", None)
    configure_logging(settings)

    assert isinstance(open_access_log(settings), LoggerAccessLog)


def test_unwritable_access_log_is_an_error_at_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be written: Is a directory"):
        open_access_log(Settings(access_log=tmp_path))


def test_access_log_appends_to_a_file_that_exists(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("earlier\n")
    log = open_access_log(Settings(access_log=path))
    log.write(answered())
    log.close()

    earlier, line = path.read_text().splitlines()
    assert earlier == "earlier"
    assert json.loads(line)["status"] == 200

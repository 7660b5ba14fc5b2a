"""Concurrent clients, and clients that disconnect."""

from __future__ import annotations

import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from normfold.service.repository import warmup
from normfold.service.runtime.session import Session
from tests.support.bundles import BundleWriter
from tests.support.service import AccessLog, Service, StartService


@pytest.mark.alone
@pytest.mark.slow
def test_concurrent_clients_get_their_own_results(served: Service) -> None:
    def ask(number: int) -> tuple[list[float], str]:
        body = {"instances": [[40 + 10 * number, 1e9]]}
        headers = {"X-Request-Id": f"id-{number}"}
        answer = served.client.post("/v1/models/rows:predict", json=body, headers=headers)
        return answer.json()["predictions"][0], answer.headers["x-request-id"]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(200)))
    assert answers == [([float(number), 0.0], f"id-{number}") for number in range(200)]


def test_long_run_does_not_stop_the_event_loop(
    bundles: BundleWriter, start: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles.rows()
    running, go_on, loaded = threading.Event(), threading.Event(), threading.Event()
    right = Session.run

    def wait(*arguments: Any) -> Any:
        if loaded.is_set():
            running.set()
            assert go_on.wait(timeout=20)
        return right(*arguments)

    monkeypatch.setattr(Session, "run", wait)
    monkeypatch.setattr(warmup, "MAX_INLINE_RUN_S", 0.0)
    service = start(bundles.root)
    loaded.set()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(service.client.post, "/v1/models/rows:predict", json={"instances": [[40, 1e9]]})
        try:
            assert running.wait(timeout=20)
            assert service.client.get("/v2/health/live").status_code == 200
        finally:
            go_on.set()
        assert slow.result(timeout=20).json() == {"predictions": [[0.0, 0.0]]}


def test_client_that_disconnects_while_sending_is_not_a_server_error(
    served: Service, access_log: AccessLog, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nX-Request-Id: leaver\r\nContent-Length: 100\r\n\r\n"
    port = httpx.URL(served.client.base_url).port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head + b"{")
    assert access_log.facts_of("leaver")["status"] == 499
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

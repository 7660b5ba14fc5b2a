"""`normfold serve` as a process: shutdown under load, and without file descriptors."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.support.command import serving
from tests.support.raw_http import connect, open_client, read_responses
from tests.support.waiting import wait_for, wait_until_loaded

HELD = """
import os, threading
from normfold.service.http import timeouts
from normfold.service.repository import warmup
from normfold.service.runtime.session import Session

warmup.MAX_INLINE_RUN_S = 0.0
timeouts.CLOSE_GRACE_S = 5.0
right = Session.run
def run(*arguments):
    if os.path.exists(os.environ["HOLD"]):
        open(os.environ["HOLD"]).read()  # a pipe: until the test has opened and closed it
    return right(*arguments)
Session.run = run
from normfold.cli.main import main
main()
"""
BODY = json.dumps({"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}).encode()
REQUEST = b"POST /v2/models/same/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


def in_flight(client: httpx.Client) -> int:
    """Return how many requests are being answered, but for the one that asks."""
    lines = client.get("/metrics").text.splitlines()
    return next(int(float(line.split()[1])) for line in lines if line.startswith("normfold_requests_in_flight ")) - 1


@pytest.mark.alone
@pytest.mark.slow
def test_shutdown_answers_requests_in_flight_and_rejects_new_connections(
    identity_repository: Path, tmp_path: Path
) -> None:
    pipe = tmp_path.parent / f"{tmp_path.name}-pipe"
    with (
        serving(identity_repository, script=HELD, HOLD=str(pipe)) as (process, client),
        contextlib.ExitStack() as stack,
    ):
        wait_until_loaded(client)
        os.mkfifo(pipe)
        connections = [stack.enter_context(connect(client)) for _ in range(20)]
        for connection in connections:
            connection.sendall(REQUEST)
        wait_for(lambda: in_flight(client) == 20)
        late = stack.enter_context(connect(client))
        client.close()
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        wait_for(lambda: refuses(client))
        late.sendall(REQUEST)  # it was on its way
        with pipe.open("w"):  # the run that waits has opened it too
            pipe.unlink()
        assert [read_responses(connection)[0][0] for connection in (*connections, late)] == [200] * 21
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
        assert time.monotonic() - started < 10
    assert "Traceback" not in log


def refuses(client: httpx.Client) -> bool:
    try:
        connect(client).close()
    except (ConnectionRefusedError, ConnectionResetError):  # the latter in the moment of closing
        return True
    return False


@pytest.mark.alone
@pytest.mark.slow
def test_shutdown_under_load_answers_every_request_whole_or_not_at_all(identity_repository: Path) -> None:
    """Four clients ask as fast as they can on connections that they keep; each ends on an answer that says so."""
    outcomes: Counter[str] = Counter()
    asked = threading.Barrier(5)

    def ask(client: httpx.Client) -> None:
        with connect(client) as connection, connection.makefile("rb") as file:
            for number in range(1_000_000):
                if number == 20:
                    asked.wait(timeout=20)
                connection.sendall(REQUEST)
                status, fields = file.readline().split(), []
                while (field := file.readline().lower()) not in (b"\r\n", b""):
                    fields.append(field)
                outcomes[status[1].decode() if status else "nothing"] += 1
                if not status:
                    return
                length = next(int(field.split(b":")[1]) for field in fields if field.startswith(b"content-length"))
                assert len(file.read(length)) == length
                if b"connection: close\r\n" in fields:
                    outcomes["closed"] += 1
                    return

    with serving(identity_repository, NORMFOLD_LOG_LEVEL="warning") as (process, client):
        wait_until_loaded(client)
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        asked.wait(timeout=20)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(timeout=20)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
    assert outcomes.keys() == {"200", "closed"}
    assert outcomes["closed"] == 4
    assert "Traceback" not in log


SCARCE = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
from normfold.cli.main import main
main()
"""


@pytest.mark.alone
@pytest.mark.slow
def test_server_without_file_descriptors_neither_spins_nor_ends(identity_repository: Path) -> None:
    with serving(identity_repository, script=SCARCE) as (process, client), contextlib.ExitStack() as stack:
        assert wait_until_loaded(client) == {"ready": True}
        assert client.get("/v2/health/live").status_code == 200  # opens the connection that the client keeps
        connections = [stack.enter_context(connect(client)) for _ in range(100)]
        cut = 0
        for connection in connections:  # those that found no descriptor are closed at once, and wait for nothing
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            try:
                cut += connection.recv(12) != b"HTTP/1.1 200"
            except ConnectionResetError:
                cut += 1
        assert 40 < cut < 100
        assert client.get("/v2/health/live").status_code == 200  # on the connection kept
        another = stack.enter_context(connect(client))
        before = processor_time(process.pid)
        select.select([], [], [], 0.5)
        assert processor_time(process.pid) - before < 0.25
        for connection in (*connections, another):
            connection.close()
        wait_for(lambda: answers_anew(client))
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
    assert "Only 48 files may be open (ulimit -n), too few for " in log
    assert "the service closes connections over the limit without a response." in log


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from normfold.cli.main import main
main()
"""


@pytest.mark.slow
def test_file_limit_is_raised_to_max_connections(identity_repository: Path) -> None:
    with (
        serving(identity_repository, script=LIMITED, NORMFOLD_MAX_CONNECTIONS="100") as (process, client),
        contextlib.ExitStack() as stack,
    ):
        wait_until_loaded(client)
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert re.search(r"^Max open files +356 ", limits, re.MULTILINE)
        for _ in range(98):
            connection = stack.enter_context(connect(client))
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"


def processor_time(process: int) -> float:
    """Return the seconds that a process has computed."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def answers_anew(client: httpx.Client) -> bool:
    with open_client(client.base_url) as another:
        try:
            return another.get("/v2/health/live").status_code == 200
        except httpx.TransportError:
            return False

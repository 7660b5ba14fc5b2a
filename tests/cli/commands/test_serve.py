"""`normfold serve` as a process of its own: ready, answering, stopped."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from normfold.cli.commands.serve import serve
from normfold.service.settings import Settings
from scripts.docs_reference.service import settings as documented_settings
from tests.support.command import SCRIPT, environment_without_settings, run_serve, serving
from tests.support.waiting import wait_until_loaded


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_exits_with_0_on_a_signal(identity_repository: Path, number: int) -> None:
    with serving(identity_repository) as (process, client):
        assert wait_until_loaded(client) == {"ready": True}
        answer = client.post("/v1/models/same:predict", json={"instances": [[1, 2]]}, headers={"X-Request-Id": "r-1"})
        assert answer.json() == {"predictions": [[1.0, 2.0]]}
        process.send_signal(number)  # while a connection is still open
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
    lines = [json.loads(line) for line in log.splitlines()]  # nothing but JSON
    assert "Traceback" not in log
    messages = [line["message"] for line in lines]
    assert any(message.startswith("Listening on http://127.0.0.1:") for message in messages)
    assert "Ready: same/1." in messages
    [line] = [line for line in lines if line.get("request_id") == "r-1"]
    assert (line["method"], line["path"], line["status"], line["model"]) == (
        "POST",
        "/v1/models/same:predict",
        200,
        "same",
    )


@pytest.mark.slow
def test_request_in_flight_is_answered_before_the_end(identity_repository: Path) -> None:
    with serving(identity_repository) as (process, client):
        wait_until_loaded(client)
        body = json.dumps({"instances": [[1, 2]]}).encode()
        head = f"POST /v1/models/same:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20) as connection:
            connection.sendall(head + body[:5])
            httpx.get(client.base_url.join("/v2"), trust_env=False)  # its connection came behind the one above
            process.send_signal(signal.SIGTERM)
            connection.sendall(body[5:])
            answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b'{"predictions":[[1.0,2.0]]}')
        assert process.wait(timeout=20) == 0


HANGING = """
import threading
from normfold.service.batching import thread_pool
from normfold.service.http import server
from normfold.service.repository import version_switch

version_switch.read_bundle = lambda *_: threading.Event().wait()
thread_pool.CLOSE_TIMEOUT_S = 0.2
from normfold.cli.main import main
main()
"""


@pytest.mark.slow
def test_load_that_hangs_does_not_delay_the_exit(identity_repository: Path) -> None:
    with serving(identity_repository, script=HANGING, NORMFOLD_SHUTDOWN_GRACE_S="0.2") as (process, client):
        assert client.get("/v2/health/live").status_code == 200
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
    assert "A thread still runs after" in log
    assert "Traceback" not in log


@pytest.mark.slow
def test_client_that_never_sends_the_rest_does_not_delay_the_exit(identity_repository: Path) -> None:
    with serving(identity_repository, NORMFOLD_SHUTDOWN_GRACE_S="0.2") as (process, client):
        wait_until_loaded(client)
        head = b"POST /v1/models/same:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
        with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20) as connection:
            connection.sendall(head)
            httpx.get(client.base_url.join("/v2"), trust_env=False)  # its connection came behind the one above
            process.send_signal(signal.SIGTERM)
            answer = connection.makefile("rb").read()
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
    assert answer.startswith(b"HTTP/1.1 503")
    assert answer.endswith(b'{"error":"The service is stopping."}')
    assert "Traceback" not in log


@pytest.mark.slow
def test_empty_repository_starts_and_says_why_it_is_not_ready(tmp_path: Path) -> None:
    with serving(tmp_path / "none") as (process, client):
        assert "There is no folder" in wait_until_loaded(client)["error"]
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
    assert "Not ready: There is no folder" in log


@pytest.mark.slow
def test_options_override_the_environment(identity_repository: Path, tmp_path: Path) -> None:
    with serving(identity_repository, NORMFOLD_REPOSITORY=str(tmp_path / "none"), NORMFOLD_LOG_LEVEL="error") as (
        _,
        client,
    ):
        assert wait_until_loaded(client) == {"ready": True}


@pytest.mark.slow
def test_every_option_reaches_the_service(identity_repository: Path, tmp_path: Path) -> None:
    second = shutil.copytree(identity_repository / "same" / "1", identity_repository / "same" / "2")
    manifest = json.loads((second / "manifest.json").read_text()) | {"version": 2}
    (second / "manifest.json").write_text(json.dumps(manifest))
    lines = tmp_path / "access.jsonl"
    options = ("--model-control", "explicit", "--version-policy", "latest:1", "--access-log", str(lines))
    limits = ("--max-batch-size", "3", "--queue-capacity", "7", "--timeout-s", "2.5")
    proxy = ("--root-path", "/ml", "--proxy-headers", "--forwarded-allow-ips", "127.0.0.0/8")
    with serving(identity_repository, *options, *limits, *proxy, NORMFOLD_QUEUE_CAPACITY="9") as (process, client):
        wait_until_loaded(client)
        assert client.get("/ml/openapi.json").json()["servers"] == [{"url": "/ml"}]
        headers = {"X-Forwarded-Prefix": "/other"}
        assert client.get("/openapi.json", headers=headers).json()["servers"] == [{"url": "/other"}]
        assert client.post("/v2/repository/models/same/load").status_code == 200
        index = client.post("/v2/repository/index").json()
        config = client.get("/v2/models/same/config").json()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    assert [(one["version"], one["state"]) for one in index] == [("1", "UNAVAILABLE"), ("2", "READY")]
    assert config["max_batch_size"] == 3
    assert config["dynamic_batching"]["default_queue_policy"] == {
        "default_timeout_microseconds": 2_500_000,
        "max_queue_size": 7,
    }
    assert "/v2/models/same/config" in {json.loads(line)["path"] for line in lines.read_text().splitlines()}


def test_the_table_of_settings_has_every_variable_and_every_option() -> None:
    rows = re.findall(r"^\| `NORMFOLD_(\w+)` \| (?:`--([a-z-]+)`)? ?\|", documented_settings(), re.MULTILINE)
    options = set(inspect.signature(serve).parameters) - {"as_json"}

    assert [variable.lower() for variable, _ in rows] == list(Settings.model_fields)
    assert {variable.lower() for variable, option in rows if option} == options
    assert all(option == variable.lower().replace("_", "-") for variable, option in rows if option)


@pytest.mark.slow
def test_port_in_use_ends_with_3_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_serve("--port", str(port))
    assert ended.returncode == 3
    assert ended.stderr.startswith(f"error: Cannot listen on 127.0.0.1:{port}: ")
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout == ""


@pytest.mark.slow
def test_tracing_without_its_packages_ends_with_3_and_says_what_to_install() -> None:
    script = f"import sys; sys.modules['opentelemetry.sdk'] = None; {SCRIPT}"
    command = [sys.executable, "-c", script, "serve", "--port", "0"]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment_without_settings(NORMFOLD_TRACING="true"),
        check=False,
    )
    assert ended.returncode == 3
    assert ended.stderr.splitlines()[-1] == (
        "error: Tracing (NORMFOLD_TRACING) needs the package 'opentelemetry-sdk'; "
        "install it in Normfold's clone with: pip install '.[tracing]'"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "variables", "code", "says"),
    [
        (("--host", "no-host.invalid"), {}, 3, "no-host.invalid:8000: the host is not known"),
        (("--port", "65536"), {}, 2, "--port is wrong"),
        (("--provider", "tpu"), {}, 2, "tpu"),
        (("--model-control", "pole"), {}, 2, "pole"),
        (("--version-policy", "newest"), {}, 2, "--version-policy is wrong"),
        (("--max-batch-size", "0"), {}, 2, "--max-batch-size is wrong"),
        (("--queue-capacity", "0"), {}, 2, "--queue-capacity is wrong"),
        (("--timeout-s", "0"), {}, 2, "--timeout-s is wrong"),
        (("--root-path", "ml"), {}, 2, "--root-path is wrong"),
        (("--forwarded-allow-ips", "nginx"), {}, 2, "--forwarded-allow-ips is wrong"),
        (("--port", "0", "--access-log", "/none/log"), {}, 2, "The access log '/none/log' cannot be written"),
        ((), {"NORMFOLD_REPOSITRY": "x"}, 2, "did you mean 'NORMFOLD_REPOSITORY'?"),
        ((), {"NORMFOLD_PORT": "x"}, 2, "NORMFOLD_PORT is wrong"),
    ],
)
def test_wrong_use_ends_at_once(options: tuple[str, ...], variables: dict[str, str], code: int, says: str) -> None:
    ended = run_serve(*options, **variables)
    assert ended.returncode == code
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr

"""`normfold serve --uds` and several `--host`: where the service listens, with one worker process and with two."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

import normfold
from tests.support.command import environment_without_settings, in_one_line, run_serve, serving_process
from tests.support.raw_http import open_client, open_unix_client
from tests.support.waiting import wait_until_ready

BODY = {"instances": [[1, 2]]}
PREDICT = "/v1/models/same:predict"
CLOSE = {"Connection": "close"}


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def health(**variables: str) -> subprocess.CompletedProcess[str]:
    """Run the health check of a container."""
    return subprocess.run(
        [sys.executable, "-m", "normfold.service.healthcheck"],
        env=environment_without_settings(**variables),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_uds_is_the_only_address_and_is_removed_at_the_end(identity_repository: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "service.sock", tmp_path / "access.log"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    options = ("--uds", str(path), "--workers", "2", "--access-log", str(log))
    with serving_process(identity_repository, *options, NORMFOLD_UDS_PERMISSIONS="600") as (process, facts):
        assert facts == {"uds": str(path)}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with open_unix_client(path) as client:
            wait_until_ready(client)
            assert {client.post(PREDICT, json=BODY, headers=CLOSE).status_code for _ in range(20)} == {200}
            rows = np.ones((40_000, 2), np.float32)
            tensor = {"name": "input", "shape": rows.shape, "datatype": "FP32", "data": rows.ravel().tolist()}
            answer = client.post("/v2/models/same/infer", json={"inputs": [tensor]})
            assert answer.json()["outputs"][0]["data"] == tensor["data"]
        curl = ["curl", "--silent", "--unix-socket", str(path), "http://localhost/v2"]
        assert (
            json.loads(subprocess.run(curl, capture_output=True, timeout=20, check=True).stdout)["name"] == "normfold"
        )
        assert health(NORMFOLD_UDS=str(path)).returncode == 0

        second = run_serve("--repository", str(identity_repository), "--uds", str(path))
        assert second.returncode == 3
        sentence = in_one_line(second.stderr).replace(" ", "")
        assert (
            f"Cannotlistenon'{path}':anotherprocesslistensonit;chooseanotherpathwith--uds.".replace(" ", "") in sentence
        )
        process.terminate()
        _, text = process.communicate(timeout=30)
        assert process.returncode == 0
    assert not path.exists()
    assert "Traceback" not in text
    assert f"Listening on the Unix socket {path}" in text
    assert '"path":"/v1/models/same:predict"' in log.read_text()
    assert health(NORMFOLD_UDS=str(path)).returncode == 1


@pytest.mark.slow
@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
def test_hosts_are_served_on_the_same_port_beside_a_unix_socket(identity_repository: Path, tmp_path: Path) -> None:
    hosts = ("--host", "127.0.0.1", "--host", "::1")
    options = (*hosts, "--port", "0", "--uds", str(tmp_path / "s"), "--workers", "1", "--grpc-port", "0")
    with serving_process(identity_repository, *options) as (process, facts):
        port = facts["port"]
        assert facts["urls"] == [f"http://127.0.0.1:{port}", f"http://[::1]:{port}"]
        for url in facts["urls"]:
            with open_client(url) as client:
                wait_until_ready(client)
                assert {client.post(PREDICT, json=BODY, headers=CLOSE).status_code for _ in range(10)} == {200}
            with normfold.Client(url) as own:
                assert own.ready("same")
        with open_unix_client(facts["uds"]) as client:
            assert client.post(PREDICT, json=BODY).status_code == 200
        for host in ("127.0.0.1", "[::1]"):
            with grpc.insecure_channel(f"{host}:{facts['grpc_port']}") as channel:
                grpc.channel_ready_future(channel).result(timeout=20)
        assert health(NORMFOLD_HOST="::1,127.0.0.1", NORMFOLD_PORT=str(port)).returncode == 0
        process.terminate()
        assert process.wait(timeout=30) == 0


@pytest.mark.slow
def test_hangup_loses_no_request_on_a_unix_socket(identity_repository: Path, tmp_path: Path) -> None:
    path, answers, end = tmp_path / "s", [], threading.Event()
    options = ("--uds", str(path), "--workers", "2", "--access-log", str(tmp_path / "log"))
    with serving_process(identity_repository, *options) as (process, _):
        with open_unix_client(path) as client:
            wait_until_ready(client)

        def ask() -> None:
            with open_unix_client(path) as client:
                while not end.is_set():
                    answers.append(client.post(PREDICT, json=BODY, headers=CLOSE).status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        for _ in range(5):
            count = len(answers)
            process.send_signal(signal.SIGHUP)
            while len(answers) <= count + 20:
                asking.join(0.01)
                assert asking.is_alive()
        end.set()
        asking.join()
        assert set(answers) == {200}
        process.terminate()
        assert process.wait(timeout=30) == 0

"""`normfold serve` under systemd: what it tells the service manager, and sockets that it is given.

systemd itself does not run here: the test receives the messages, and passes the sockets by systemd's own program.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import SCRIPT, environment_without_settings, serving_process
from tests.support.raw_http import open_client, open_unix_client
from tests.support.waiting import wait_for, wait_until_ready

BODY = {"instances": [[1, 2]]}
PREDICT = "/v1/models/same:predict"


class Manager:
    """The receiving side of NOTIFY_SOCKET; notes who sends, as systemd does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(path))

    def next(self, without: str = "WATCHDOG=1", timeout_s: float = 30) -> tuple[int, str]:
        """Return the process and the text of the next message but signs of life."""
        self._socket.settimeout(timeout_s)
        while True:
            text, ancillary, _, _ = self._socket.recvmsg(4096, 1024)
            if (message := text.decode()) != without:
                return int.from_bytes(ancillary[0][2][:4], sys.byteorder), message

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with contextlib.closing(Manager(tmp_path / "notify")) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_notify_says_when_the_models_are_loaded_and_brackets_reload_and_end(
    identity_repository: Path, manager: Manager, tmp_path: Path, workers: str
) -> None:
    options = ("--port", "0", "--workers", workers)
    state = tmp_path / "state"
    variables = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "400000", "NORMFOLD_STATE_DIR": str(state)}
    with serving_process(identity_repository, *options, **variables) as (process, facts):
        process_id, ready = manager.next()
        assert workers == "1" or len(list(state.glob("workers/worker-*.json"))) == int(workers)
        assert process_id == process.pid  # NotifyAccess=main
        assert ready.startswith("READY=1\nSTATUS=")
        assert {manager.next(without="") for _ in range(3)} == {(process.pid, "WATCHDOG=1")}
        with open_client(facts["url"]) as client:
            assert client.get("/v2/health/ready").status_code == 200
            process.send_signal(signal.SIGHUP)
            assert manager.next()[1].startswith("RELOADING=1\nMONOTONIC_USEC=")
            assert manager.next()[1] == "READY=1"
            assert client.post(PREDICT, json=BODY).status_code == 200
        process.terminate()
        assert manager.next()[1].startswith("STOPPING=1")
        assert process.wait(timeout=30) == 0


@pytest.mark.slow
def test_notify_says_why_the_service_is_not_ready(tmp_path: Path, manager: Manager) -> None:
    (tmp_path / "models").mkdir()
    with serving_process(tmp_path / "models", "--port", "0", NOTIFY_SOCKET=str(manager.path)):
        assert "no model" in manager.next()[1].lower()


needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="no systemd-socket-activate (apt install systemd)"
)


@needs_systemd
@pytest.mark.slow
def test_sockets_of_systemd_replace_host_and_port(identity_repository: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = tmp_path / "s"
    listen = ("systemd-socket-activate", "--listen", f"127.0.0.1:{port}", "--listen", str(path), "--fdname=web:local")
    options = ("--port", "1", "--workers", "2")
    with activated(identity_repository, listen, *options) as process:
        wait_for(path.exists)
        with open_client(f"http://127.0.0.1:{port}") as client, open_unix_client(path) as local:
            local.get("/v2/health/live", timeout=60)  # the first connection starts it, and waits
            wait_until_ready(client)
            wait_until_ready(local)
            headers = {"Connection": "close"}
            for _ in range(10):
                assert client.post(PREDICT, json=BODY, headers=headers).status_code == 200
                assert local.post(PREDICT, json=BODY, headers=headers).status_code == 200
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert facts == {"url": f"http://127.0.0.1:{port}", "host": "127.0.0.1", "port": port, "uds": str(path)}
        process.terminate()
        assert process.wait(timeout=30) == 0
    assert path.exists()  # it is systemd's


@contextlib.contextmanager
def activated(repository: Path, listen: tuple[str, ...], *options: str) -> Iterator[subprocess.Popen[str]]:
    """Wait for a connection, then serve in the same process, as systemd would."""
    settings = [f"--setenv={name}" for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ]
    command = [*listen, *settings, sys.executable, "-c", SCRIPT, "serve", "--repository", str(repository), "--json"]
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment_without_settings(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_socket_of_systemd_outlives_a_restart_and_connections_wait(
    identity_repository: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        os.set_inheritable(listener.fileno(), True)
        pass_on = f'exec "$0" "$@" 3<&{listener.fileno()}'
        command = [sys.executable, "-c", "import os; os.environ['LISTEN_PID'] = str(os.getpid()); " + SCRIPT]
        for _ in range(2):
            process = subprocess.Popen(
                ["bash", "-c", pass_on, *command, "serve", "--repository", str(identity_repository)],
                env=environment_without_settings(LISTEN_FDS="1"),
                pass_fds=[listener.fileno()],
                stderr=subprocess.DEVNULL,
            )
            try:
                with open_client(url) as client:  # connects at once, whether the process is there or not
                    wait_until_ready(client)
                    assert client.post(PREDICT, json=BODY).status_code == 200
                process.terminate()
                assert process.wait(timeout=30) == 0
            finally:
                process.kill()
                process.wait()

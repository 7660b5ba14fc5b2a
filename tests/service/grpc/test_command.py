"""`normfold serve --grpc-port`: the port, several worker processes, the end of the process."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from normfold.service.errors import AddressError
from normfold.service.grpc.address import reserved_port
from tests.support.command import in_one_line, run_serve, serving
from tests.support.waiting import wait_until_ready


def free_port() -> int:
    with reserved_port("127.0.0.1", 0) as port:
        assert port
        return port


@pytest.mark.parametrize("shares", [False, True])
def test_grpc_port_in_use_is_an_error(shares: bool) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shares))
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(AddressError, match="in use; choose another with --grpc-port"),
            reserved_port("127.0.0.1", port),
        ):
            pass


def test_grpc_port_is_held_for_the_servers() -> None:
    with reserved_port("127.0.0.1", 0) as port, socket.socket() as other:
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with pytest.raises(AddressError), reserved_port("127.0.0.1", port):
            pass


@pytest.mark.slow
def test_grpc_port_of_http_ends_the_command_with_one_sentence(identity_repository: Path) -> None:
    port = str(free_port())
    ended = run_serve("--repository", str(identity_repository), "--port", port, "--grpc-port", port)
    assert ended.returncode == 3
    assert f"Cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --grpc-port." in (
        in_one_line(ended.stderr)
    )
    assert "Traceback" not in ended.stderr


def infer(port: int) -> bool:
    tensor = triton.InferInput("input", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 2), np.float32))
    args = [("grpc.use_local_subchannel_pool", 1)]
    with triton.InferenceServerClient(f"127.0.0.1:{port}", channel_args=args) as client:
        return bool((client.infer("same", [tensor]).as_numpy("output") == 1).all())


@pytest.mark.slow
def test_grpc_is_served_by_every_worker_process(identity_repository: Path, tmp_path: Path) -> None:
    port = free_port()
    options = ["--workers", "2", "--grpc-port", str(port), "--provider", "cpu", "--access-log", str(tmp_path / "log")]
    with serving(identity_repository, *options) as (process, client):
        wait_until_ready(client)
        assert all(infer(port) for _ in range(40))
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    ids = {line["request_id"].partition("-")[0] for line in lines if line["path"].endswith("/ModelInfer")}
    assert len(ids) == 2, "one process answered all of them"

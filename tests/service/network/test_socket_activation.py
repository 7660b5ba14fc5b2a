"""Sockets that systemd passes: taken by the process that they are for, refused if they are of the wrong kind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import pytest

TAKE = """
import os, sys
from normfold.contract.errors import NormfoldError
from normfold.service.network.socket_activation import take_inherited_sockets
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
try:
    found = take_inherited_sockets()
except NormfoldError as error:
    sys.exit(f"{error.exit_code} {error}")
print([one.getsockname() for one in found], [one.get_inheritable() for one in found])
print(sorted(name for name in os.environ if name.startswith("LISTEN_")))
"""


def take(passed: Sequence[int], **variables: str) -> subprocess.CompletedProcess[str]:
    """Take the sockets in a process whose file descriptors from 3 on are those given."""
    high = [
        os.dup2(descriptor, 200 + index) for index, descriptor in enumerate(passed)
    ]  # so that no one overwrites one
    moves = " ".join(f"{3 + index}<&{descriptor}" for index, descriptor in enumerate(high))
    for descriptor in high:
        os.set_inheritable(descriptor, True)
    try:
        return subprocess.run(
            ["bash", "-c", f'exec "$0" -c "$1" {moves}', sys.executable, TAKE],
            env=os.environ | variables,
            pass_fds=high,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        for descriptor in high:
            os.close(descriptor)


@pytest.mark.slow
def test_socket_activation_takes_sockets_of_tcp_and_of_unix() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX) as second,
    ):
        second.bind(f"{folder}/s")
        second.listen()
        done = take([first.fileno(), second.fileno()], LISTEN_FDS="2", LISTEN_FDNAMES="http:local")
        assert done.stdout.splitlines() == [f"{[first.getsockname(), f'{folder}/s']} [False, False]", "[]"], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_FDS": "0"}, {}])
def test_socket_activation_of_another_process_or_of_none_is_ignored(variables: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = take([listener.fileno()], **variables)
    assert done.stdout.splitlines()[0] == "[] []", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count", "problem"),
    [
        ("datagram", "1", "The inherited socket 'web' (file descriptor 3) is no stream socket"),
        ("file", "1", "The inherited socket 'web' (file descriptor 3) is no socket"),
        ("connected", "1", "The inherited socket 'web' (file descriptor 3) does not listen; use Accept=no"),
        ("listening", "2", "The inherited socket 'unknown' (file descriptor 4) is not open."),
        ("listening", "two", "LISTEN_FDS is 'two', which is no number."),
        ("listening", "-1", "LISTEN_FDS is '-1', which is no number."),
    ],
)
def test_socket_activation_of_the_wrong_kind_is_one_sentence(kind: str, count: str, problem: str) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as connected,
        tempfile.TemporaryFile() as file,
    ):
        sockets = {"datagram": datagram, "connected": connected, "listening": listening}
        passed = file.fileno() if kind == "file" else sockets[kind].fileno()
        done = take([passed], LISTEN_FDS=count, LISTEN_FDNAMES="web")
    assert done.returncode == 1
    assert done.stderr.startswith(f"3 {problem}"), done.stderr

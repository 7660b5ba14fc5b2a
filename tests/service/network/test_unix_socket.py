"""The Unix socket: its permissions, and what happens to a file that is there already."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from normfold.service.errors import UnixSocketError
from normfold.service.network.unix_socket import unix_listener
from tests.support.waiting import wait_for


def leave_stale(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
    with socket.socket(socket.AF_UNIX, kind) as old:
        old.bind(str(path))


@pytest.mark.parametrize("permissions", [0o600, 0o660, 0o666])
def test_unix_socket_has_its_permissions_whatever_the_umask(tmp_path: Path, permissions: int) -> None:
    before = os.umask(0o077)
    try:
        with unix_listener(tmp_path / "service.sock", permissions) as listener:
            facts = (tmp_path / "service.sock").stat()
            assert stat.S_ISSOCK(facts.st_mode)
            assert stat.S_IMODE(facts.st_mode) == permissions
            assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)


def test_unix_socket_accepts_connections_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "service.sock"
    with unix_listener(path, 0o660), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert not path.exists()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_unix_socket_that_is_stale_is_replaced(tmp_path: Path, kind: socket.SocketKind) -> None:
    path = tmp_path / "service.sock"
    leave_stale(path, kind)
    with unix_listener(path, 0o660), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@pytest.mark.parametrize("backlog", [0, 128])
def test_unix_socket_in_use_is_refused_and_kept(tmp_path: Path, backlog: int) -> None:
    path = tmp_path / "service.sock"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(path))
        other.listen(backlog)
        if backlog == 0:
            waiting.connect(str(path))  # it accepts none, so that one more would wait
        with pytest.raises(UnixSocketError, match="another process listens on it"), unix_listener(path, 0o660):
            pass
        assert path.exists()


def test_unix_socket_of_datagrams_in_use_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "service.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(UnixSocketError, match="another process listens on it"), unix_listener(path, 0o660):
            pass
        assert path.exists()


def make_file(path: Path) -> None:
    path.write_text("kept")


def make_link(path: Path) -> None:
    leave_stale(path.with_name("other.sock"))
    path.symlink_to("other.sock")


@pytest.mark.parametrize("make", [make_file, make_link])
def test_unix_socket_never_replaces_another_file(tmp_path: Path, make: object) -> None:
    path = tmp_path / "service.sock"
    make(path)  # type: ignore[operator]
    with pytest.raises(UnixSocketError, match="there is a file that is no socket"), unix_listener(path, 0o660):
        pass
    assert path.is_symlink() or path.exists()


def test_unix_socket_at_a_folder_is_refused_by_that_name(tmp_path: Path) -> None:
    with (
        pytest.raises(UnixSocketError, match="it is a folder; give the path of a socket in it"),
        unix_listener(tmp_path, 0o660),
    ):
        pass
    assert tmp_path.is_dir()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing/service.sock", "No such file or directory"),
        ("x" * 150, "AF_UNIX path too long"),
        ("file/service.sock", "Not a directory"),
    ],
)
def test_unix_socket_whose_path_cannot_be_used_is_one_sentence(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / name
    with pytest.raises(UnixSocketError) as caught, unix_listener(path, 0o660):
        pass
    assert str(caught.value) == f"Cannot listen on '{path}': {problem}; choose another path with --uds."
    assert caught.value.exit_code == 3


def test_unix_socket_of_a_service_that_took_its_place_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "service.sock"
    with socket.socket(socket.AF_UNIX) as successor:
        with unix_listener(path, 0o660):
            path.unlink()
            successor.bind(str(path))
        assert path.exists()


def test_unix_socket_is_opened_by_one_of_several_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, end = tmp_path / "service.sock", threading.Event()
    opened: list[socket.socket] = []
    refused: list[str] = []
    leave_stale(path)
    unlink, delays = Path.unlink, iter((0.02, 0.06, 0.1))

    def unlink_late(self: Path) -> None:  # between probe and bind
        time.sleep(next(delays, 0))
        unlink(self)

    monkeypatch.setattr(Path, "unlink", unlink_late)

    def open_it() -> None:
        try:
            with unix_listener(path, 0o660) as listener:
                opened.append(listener)
                end.wait(timeout=20)
        except UnixSocketError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=open_it) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(opened) + len(refused) == 3)
    end.set()
    for thread in threads:
        thread.join()
    assert len(opened) == 1
    assert all("another process listens on it" in sentence for sentence in refused)

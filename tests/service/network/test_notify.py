"""Messages to the service manager, at a real socket of datagrams."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from normfold.service.network.notify import Notifier, take_notifier


class Manager:
    """The receiving side of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0"))
        self.socket.settimeout(0)

    def messages(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    found = Manager(str(tmp_path / "notify"))
    yield found
    found.socket.close()


def test_notifier_says_once_that_the_service_is_ready_in_one_line(manager: Manager, tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "notify"))
    notifier.ready("Serving\nSTOPPING=1")
    notifier.ready("again")
    assert manager.messages() == ["READY=1\nSTATUS=Serving STOPPING=1"]


def test_notifier_brackets_a_reload_with_the_time_of_its_beginning(manager: Manager, tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "notify"))
    notifier.reloading()  # while it starts: the end of the reload is not that of the start
    notifier.reloaded()
    assert manager.messages() == []
    notifier.ready("Serving.")
    manager.messages()

    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    notifier.reloaded()
    begin, end = manager.messages()
    assert begin.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert before <= int(begin.partition("USEC=")[2]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert end == "READY=1"


def test_notifier_reaches_an_abstract_socket() -> None:
    address = f"@normfold-test-{os.getpid()}"
    manager = Manager(address)
    Notifier(address).stopping()
    assert manager.messages() == ["STOPPING=1\nSTATUS=Finishing requests."]
    manager.socket.close()


def test_notifier_without_a_service_manager_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)
    notifier = Notifier()
    notifier.ready("Serving.")
    notifier.reloading()
    notifier.stopping()
    notifier.alive()


def test_notifier_whose_manager_is_gone_logs_it_and_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Notifier(str(tmp_path / "nothing")).ready("Serving.")
    assert "does not take 'READY=1': No such file or directory" in caplog.text


@pytest.mark.parametrize(
    ("interval", "process", "expected_s"),
    [("3000000", "", 1.5), ("3000000", "own", 1.5), ("3000000", "1", None), ("0", "", None), ("x", "", None)],
)
def test_notifier_is_taken_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, interval: str, process: str, expected_s: float | None
) -> None:
    variables = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": interval}
    variables["WATCHDOG_PID"] = str(os.getpid()) if process == "own" else process
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert take_notifier().watchdog_interval_s == expected_s
    assert not variables.keys() & os.environ.keys()

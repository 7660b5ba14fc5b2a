"""The service's log: whoever reads standard error, or does not, requests are answered and the lines stay in order."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, perf_counter

import numpy as np
import pytest

from tests.support.command import environment_without_settings
from tests.support.raw_http import open_client
from tests.support.waiting import wait_until_ready

SCRIPT = """
import logging
from normfold.cli.main import main
from normfold.service.observability.telemetry import Telemetry

record, numbers = Telemetry.record, iter(range(10**9))

def record_and_log(telemetry, trace):
    if trace.path.endswith(":predict"):
        logging.getLogger("test").warning("ordinary line %d %s", next(numbers), "x" * 1000)
    record(telemetry, trace)

Telemetry.record = record_and_log
main()
"""
"""The command; every prediction logs an ordinary line of a kilobyte beside that of the access log."""

BODY = json.dumps({"instances": [[1, 2]]}).encode()


@contextlib.contextmanager
def serving_to(stderr: int, repository: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start the service with a standard error, and end it whatever happens; yields its process and its URL."""
    options = ("--repository", str(repository), "--port", "0", "--json")
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "serve", *options],
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=environment_without_settings(),
    )
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["url"]
    finally:
        process.kill()
        process.communicate()


def ask(url: str, count: int) -> list[float]:
    """Ask one after the other on a connection; return the seconds of each answer, every one of which is 200."""
    seconds = []
    with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)) as connection:
        for _ in range(count):
            started = perf_counter()
            connection.request("POST", "/v1/models/same:predict", BODY)
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b'{"predictions":[[1.0,2.0]]}')
            seconds.append(perf_counter() - started)
    return seconds


def read_all(descriptor: int) -> list[str]:
    """Return the lines until the other end is closed, in the terminal's form or not."""
    parts = []
    with contextlib.suppress(OSError):  # EIO: the other end of a terminal
        while part := os.read(descriptor, 2**20):
            parts.append(part)
    return b"".join(parts).decode().replace("\r\n", "\n").splitlines()


def numbers_of(lines: list[str]) -> list[int]:
    return [int(number) for line in lines for number in re.findall(r"ordinary line (\d+)", line)]


def lost_lines(url: str) -> int:
    with open_client(url) as client:
        text = client.get("/metrics").text
    name = 'normfold_log_lines_lost_total{log="standard_error"}'
    return next(int(float(line.split()[-1])) for line in text.splitlines() if line.startswith(name))


@pytest.mark.slow
@pytest.mark.alone
def test_standard_error_that_nobody_reads_delays_no_answer_and_loses_lines_that_are_counted(
    identity_repository: Path,
) -> None:
    reader, writer = os.pipe()
    with serving_to(writer, identity_repository) as (process, url):
        os.close(writer)
        with open_client(url) as client:
            wait_until_ready(client)
        seconds = ask(url, 10_000)
        assert np.quantile(seconds, 0.99) < 0.1
        lost = lost_lines(url)
        assert lost > 1000

        found: list[list[str]] = []
        thread = threading.Thread(target=lambda: found.append(read_all(reader)))
        thread.start()  # the reader goes on
        process.terminate()
        assert process.wait(timeout=20) == 0
        thread.join()
    os.close(reader)

    lines = [json.loads(line) for line in found[0]]
    numbers = numbers_of(found[0])
    assert numbers == sorted(numbers)
    of_requests = sum("/v1/models/same:predict" in line["message"] for line in lines) + len(numbers)
    assert of_requests + lost == 20_000
    reports = [line["message"] for line in lines if " lost: " in line["message"]]
    assert reports == [
        f"The log on standard error: {lost:,} lines are lost: they came faster than its reader reads. (Logged once a "
        "minute.)"
    ]


def open_pipe(_: Path) -> tuple[int, int, Callable[[], list[str]]]:
    reader, writer = os.pipe()
    return reader, writer, lambda: read_all(reader)


def open_terminal(_: Path) -> tuple[int, int, Callable[[], list[str]]]:
    reader, writer = pty.openpty()
    return reader, writer, lambda: read_all(reader)


def open_file(folder: Path) -> tuple[int, int, Callable[[], list[str]]]:
    path = folder / "log"
    return (
        os.open("/dev/null", os.O_RDONLY),
        os.open(path, os.O_WRONLY | os.O_CREAT),
        lambda: path.read_text().splitlines(),
    )


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("open_destination", [open_pipe, open_terminal])
def test_service_ends_in_time_although_nobody_reads_its_log(
    identity_repository: Path, tmp_path: Path, open_destination: Callable[[Path], tuple[int, int, object]]
) -> None:
    reader, writer, _ = open_destination(tmp_path)
    with serving_to(writer, identity_repository) as (process, url):
        os.close(writer)
        with open_client(url) as client:
            wait_until_ready(client)
        assert max(ask(url, 500)) < 1.0
        started = monotonic()
        process.terminate()
        assert process.wait(timeout=20) == 0
        assert monotonic() - started < 5.0
    os.close(reader)


@pytest.mark.slow
@pytest.mark.parametrize("open_destination", [open_pipe, open_terminal, open_file])
def test_every_line_arrives_in_order(
    identity_repository: Path,
    tmp_path: Path,
    open_destination: Callable[[Path], tuple[int, int, Callable[[], list[str]]]],
) -> None:
    reader, writer, read = open_destination(tmp_path)
    found: list[list[str]] = []
    thread = threading.Thread(target=lambda: found.append(read()))
    with serving_to(writer, identity_repository) as (process, url):
        os.close(writer)
        if open_destination is not open_file:
            thread.start()
        with open_client(url) as client:
            wait_until_ready(client)
        ask(url, 500)
        process.terminate()
        assert process.wait(timeout=20) == 0
    if open_destination is open_file:
        thread.start()
    thread.join()
    os.close(reader)

    lines = found[0]
    assert numbers_of(lines) == list(range(500))
    kinds = [
        "ordinary" if "ordinary line" in line else "access"
        for line in lines
        if "ordinary" in line or ":predict" in line
    ]
    assert kinds == ["ordinary", "access"] * 500


CRASH = """
import logging
from normfold.cli import main as command
from normfold.service.logs import configure_logging
from normfold.service.settings import Settings

def crash():
    configure_logging(Settings(log_format="json"))
    for number in range(3000):
        logging.getLogger("test").warning("ordinary line %d", number)
    raise RuntimeError("planted")

command.app = crash
command.main()
"""


@pytest.mark.slow
def test_traceback_of_a_crash_follows_every_line_of_the_log() -> None:
    ended = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 70
    before, _, traceback = ended.stderr.partition("Traceback (most recent call last):\n")
    assert numbers_of(before.splitlines()) == list(range(3000))
    assert "RuntimeError: planted" in traceback

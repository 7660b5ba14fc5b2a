"""`normfold serve` as a process: SIGHUP, and a standard error that nobody reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.command import SCRIPT, environment_without_settings, serving
from tests.support.raw_http import open_client
from tests.support.waiting import wait_for, wait_until_loaded, wait_until_ready

BODY = {"instances": [[1, 2]]}


def ask(client: httpx.Client) -> int:
    """Ask on the connection of the client, which is kept."""
    return client.post("/v1/models/same:predict", json=BODY).status_code


def has_request(log: Path) -> bool:
    return log.exists() and "/v1/models/same:predict" in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_hangup_reopens_the_access_log_and_nothing_else(
    identity_repository: Path, tmp_path: Path, workers: int
) -> None:
    log, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    options = ("--access-log", str(log), "--workers", str(workers))
    with serving(identity_repository, *options, NORMFOLD_STATE_DIR=str(tmp_path / "state")) as (process, client):
        assert process.stderr is not None
        workers_at_start = wait_for_children(process, workers)
        process.send_signal(signal.SIGHUP)  # while it starts
        wait_until_ready(client)
        assert children(process) == workers_at_start
        before = status_files(tmp_path)
        assert ask(client) == 200
        wait_for(lambda: has_request(log))
        for _ in range(2):
            log.rename(moved)
            process.send_signal(signal.SIGHUP)
            wait_for(log.exists)
            assert ask(client) == 200
            wait_for(lambda: has_request(log))
        assert status_files(tmp_path) == before  # the processes are the same
        process.terminate()
        lines = process.stderr.read().splitlines()
        assert process.wait(timeout=20) == 0

    reopened = [line for line in lines if "SIGHUP: the access log was reopened" in line]
    assert len(reopened) >= 2 * workers
    assert not any("died" in line for line in lines)


def children(process: subprocess.Popen[str]) -> list[str]:
    """Return the process ids of the workers."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def wait_for_children(process: subprocess.Popen[str], workers: int) -> list[str]:
    """Wait until all workers are started, and return them; one process has none."""
    if workers > 1:
        wait_for(lambda: len(children(process)) == workers)
    return children(process)


def status_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("state/workers/worker-*.json"))


@pytest.mark.slow
def test_hangup_without_a_file_of_the_access_log_is_a_line_in_the_log(identity_repository: Path) -> None:
    with serving(identity_repository) as (process, client):
        assert process.stderr is not None
        wait_until_loaded(client)
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: "no file of an access log" in process.stderr.readline())  # type: ignore[union-attr]
        assert ask(client) == 200


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_service_whose_standard_error_is_closed_serves(identity_repository: Path, workers: str) -> None:
    command = [sys.executable, "-c", SCRIPT, "serve", "--repository", str(identity_repository), "--port", "0", "--json"]
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" 0<&- 2>&-', "sh", *command, "--workers", workers],
        stdout=subprocess.PIPE,
        env=environment_without_settings(),
    )
    try:
        assert process.stdout is not None
        with open_client(json.loads(process.stdout.readline())["url"]) as client:
            wait_until_ready(client)
            assert ask(client) == 200
            assert str(Path(f"/proc/{process.pid}/fd/2").readlink()) == os.devnull
        process.terminate()
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_service_whose_log_is_no_longer_read_serves_on_and_ends_with_0(identity_repository: Path) -> None:
    with serving(identity_repository) as (process, client):
        assert process.stderr is not None
        wait_until_loaded(client)
        process.stderr.close()
        assert [ask(client) for _ in range(3)] == [200] * 3
        wait_for(lambda: str(Path(f"/proc/{process.pid}/fd/2").readlink()) == os.devnull)
        process.terminate()
        assert process.wait(timeout=20) == 0

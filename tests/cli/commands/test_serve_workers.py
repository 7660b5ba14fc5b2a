"""`normfold serve --workers N`: several processes that are one service."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.bundles import BundleWriter, publish_version
from tests.support.command import run_serve, serving
from tests.support.infer_bodies import PICTURE
from tests.support.waiting import CLOSE, wait_for, wait_until_loaded, wait_until_ready

PREDICT = "/v1/models/same:predict"


def children(process: subprocess.Popen[str]) -> list[int]:
    """Return the workers' process ids; one that ends meanwhile is none."""
    workers = []
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                workers.append(int(child))
    return workers


def ask(client: httpx.Client) -> int:
    """Ask on a connection of its own, so that any worker may take it."""
    answer = client.post(PREDICT, json={"instances": [[1, 2]]}, headers={"Connection": "close"})
    return answer.status_code


def metric(client: httpx.Client, name: str, **labels: str) -> float:
    text = client.get("/metrics", headers={"Connection": "close"}).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.alone
@pytest.mark.slow
def test_workers_are_one_service(identity_repository: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    options = ("--workers", "2")
    with serving(identity_repository, *options, NORMFOLD_STATE_DIR=str(state), NORMFOLD_MODEL_CONTROL="explicit") as (
        process,
        client,
    ):
        wait_until_ready(client)
        workers = children(process)
        assert len(workers) == 2
        assert ask(client) == 503  # nothing is loaded yet

        assert client.post("/v2/repository/models/same/load").status_code == 200
        assert {ask(client) for _ in range(20)} == {200}  # whichever worker took it
        wait_for(lambda: metric(client, "normfold_requests_total", model="same", status="200") == 20)
        assert metric(client, "normfold_workers") == 2

        os.kill(workers[0], signal.SIGKILL)
        wait_for(lambda: len(children(process)) == 2 and children(process) != workers)
        wait_for(lambda: metric(client, "normfold_workers") == 2)
        assert metric(client, "normfold_requests_total", model="same", status="200") == 20  # the dead one's too
        assert {ask(client) for _ in range(20)} == {200}  # the new one has loaded what the others have

        assert client.post("/v2/repository/models/same/unload").status_code == 200
        assert {ask(client) for _ in range(20)} == {503}

        busy = run_serve("--repository", str(identity_repository), "--port", "0", NORMFOLD_STATE_DIR=str(state))
        assert busy.returncode == 2
        assert "is in use by another service" in busy.stderr

        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0
    assert "Traceback" not in log
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["level"] for line in lines if "this one replaces it" in line["message"]] == ["warning"]


@pytest.mark.alone
@pytest.mark.slow
def test_failed_loads_of_all_workers_are_counted_and_outlast_the_worker(identity_repository: Path) -> None:
    aside, broken = identity_repository / "aside", identity_repository / "same" / "2"
    with serving(identity_repository, "--workers", "2", "--model-control", "poll", NORMFOLD_POLL_INTERVAL_S="0.1") as (
        process,
        client,
    ):
        wait_until_ready(client)
        assert metric(client, "normfold_workers_desired") == 2
        assert metric(client, "normfold_model_load_failures_total") == 0
        aside.mkdir()
        aside.rename(broken)  # at once, so that it fails once
        wait_for(lambda: metric(client, "normfold_model_load_failures_total", model="same") == 2)  # one in each worker

        broken.rename(aside)
        workers = children(process)
        os.kill(workers[0], signal.SIGKILL)
        wait_for(lambda: len(children(process)) == 2 and children(process) != workers)
        wait_for(lambda: metric(client, "normfold_workers") == 2)
        assert metric(client, "normfold_model_load_failures_total", model="same") == 2
        wait_for(lambda: metric(client, "normfold_model_ready", model="same", version="1") == 1)


@pytest.mark.alone
@pytest.mark.slow
def test_workers_survive_lost_locks_and_a_damaged_state_file(identity_repository: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with serving(
        identity_repository, "--workers", "2", NORMFOLD_STATE_DIR=str(state), NORMFOLD_MODEL_CONTROL="explicit"
    ) as (
        _,
        client,
    ):
        wait_until_ready(client)
        for lock in (state / "workers").glob("*.lock"):
            lock.unlink()
        assert metric(client, "normfold_workers") == 2
        assert client.post("/v2/repository/models/same/load").status_code == 200
        assert {ask(client) for _ in range(10)} == {200}

        (state / "workers" / "requests.json").write_text("{")
        answer = client.post("/v2/repository/models/same/unload")
        assert answer.status_code == 503
        assert "cannot be reached" in answer.json()["error"]
        assert {ask(client) for _ in range(10)} == {200}  # nothing is half done
        (state / "workers" / "requests.json").unlink()
        assert client.post("/v2/repository/models/same/unload").status_code == 200
        assert {ask(client) for _ in range(10)} == {503}


@pytest.mark.alone
@pytest.mark.slow
def test_workers_end_when_the_coordinator_is_killed(identity_repository: Path) -> None:
    with serving(identity_repository, "--workers", "2") as (process, client):
        wait_until_ready(client)
        workers = children(process)
        assert len(workers) == 2
        process.kill()
        wait_for(lambda: not any(is_alive(worker) for worker in workers))


@pytest.mark.slow
def test_service_is_unready_and_serves_on_during_the_shutdown_delay(identity_repository: Path) -> None:
    with serving(identity_repository, NORMFOLD_SHUTDOWN_DELAY_S="60") as (process, client):
        wait_until_loaded(client)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: client.get("/v2/health/ready").status_code == 503)
        assert "stopping" in client.get("/v2/health/ready").json()["error"]
        assert ask(client) == 200
        process.send_signal(signal.SIGTERM)  # at once
        assert process.wait(timeout=20) == 0


@pytest.mark.slow
def test_state_folder_that_cannot_be_made_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = run_serve("--port", "0", "--workers", "2", NORMFOLD_STATE_DIR=str(tmp_path / "file" / "state"))
    assert ended.returncode == 2
    assert "cannot be written" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", ["0", "257", "x"])
def test_number_of_workers_is_checked(number: str) -> None:
    ended = run_serve("--workers", number)
    assert ended.returncode == 2


@pytest.mark.slow
def test_coordinator_reports_a_wrong_setting_once(identity_repository: Path, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "none" / "access.log")
    ended = run_serve(
        "--repository", str(identity_repository), "--port", "0", "--workers", "2", "--access-log", nowhere
    )
    assert ended.returncode == 2
    assert "cannot be written" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.alone
@pytest.mark.slow
def test_worker_that_fails_after_the_start_is_restarted_while_the_others_serve(
    identity_repository: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    with serving(identity_repository, "--workers", "2", "--access-log", str(folder / "access.log")) as (
        process,
        client,
    ):
        wait_until_ready(client)
        workers = children(process)
        folder.rename(tmp_path / "gone")
        os.kill(workers[0], signal.SIGKILL)
        wait_for(lambda: len(children(process)) == 2 and children(process) != workers)
        assert {ask(client) for _ in range(10)} == {200}
        (tmp_path / "gone").rename(folder)
        wait_for(lambda: metric(client, "normfold_workers") == 2)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0
    assert "Traceback" not in log


@pytest.mark.alone
@pytest.mark.slow
def test_workers_follow_a_shadow_and_its_promotion(bundles: BundleWriter, tmp_path: Path) -> None:
    publish_version(bundles, 1)
    publish_version(bundles, 2)
    payloads = tmp_path / "payloads.jsonl"
    shadow = ("--model-control", "explicit", "--shadow", "digits=2")
    # Nobody reads the pipe of standard error, which access lines would fill.
    logs = ("--access-log", str(tmp_path / "access.log"), "--payload-log", str(payloads), "--payload-log-share", "1")
    with serving(bundles.root, "--workers", "2", *shadow, *logs) as (process, client):
        wait_until_ready(client)

        def call(method: str, path: str, **body: Any) -> dict[str, Any]:
            answer = client.request(method, f"/v2/{path}", json=body or None, headers=CLOSE)
            assert answer.status_code == 200, answer.text
            return dict(answer.json()) if answer.content else {}

        def versions(count: int) -> set[str]:
            return {call("POST", "models/digits/infer", **PICTURE)["model_version"] for _ in range(count)}

        wait_for(lambda: metric(client, "normfold_workers") == 2)
        call("POST", "repository/models/digits/load")
        wait_for(lambda: call("GET", "models/digits/shadow")["state"] == "READY")
        assert versions(20) == {"1"}
        wait_for(lambda: call("GET", "models/digits/shadow")["requests"]["compared"] == 20)
        assert call("GET", "models/digits/shadow")["outputs"] == [{"name": "logits", "max_difference": 1.0}]

        call("POST", "models/digits/shadow/end")
        assert versions(20) == {"1"}
        assert call("POST", "models/digits/canary/start", version="2", share=0.5)["state"] == "READY"
        assert versions(40) == {"1", "2"}
        wait_for(
            lambda: payloads.read_bytes().count(b"\n") == 80
        )  # a worker that is killed loses what it has not written
        workers = children(process)
        os.kill(workers[0], signal.SIGKILL)
        wait_for(lambda: metric(client, "normfold_workers") == 2 and children(process) != workers)
        call("POST", "models/digits/canary/promote")
        assert versions(20) == {"2"}

        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0
    assert "Traceback" not in log
    lines = [json.loads(line) for line in payloads.read_text().splitlines()]
    assert len({line["request_id"] for line in lines}) == len(lines) == 100

"""Loops in the background: each survives its own errors, and says so once."""

from __future__ import annotations

import asyncio
import errno
import logging
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from normfold.service import background
from normfold.service.background import ErrorLog, run_forever
from normfold.service.http.timeouts import ConnectionReaper
from normfold.service.repository.background.arena_trimmer import ArenaTrimmer
from normfold.service.workers import shared_state
from tests.support.bundles import BundleWriter, publish_version
from tests.support.service import StartService, answering_version
from tests.support.waiting import wait_for

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [FULL, KeyError("x"), RuntimeError()])
def test_loop_goes_on_after_an_error_and_logs_it_once(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "RETRY_INTERVAL_S", 0.0)
    calls = 0

    async def step() -> None:
        nonlocal calls
        calls += 1
        if calls <= 3:
            raise error
        if calls == 5:
            raise asyncio.CancelledError

    with caplog.at_level(logging.INFO), pytest.raises(asyncio.CancelledError):
        asyncio.run(run_forever(ErrorLog("It cannot be done"), step, 0.0))

    assert [(record.levelname, "It cannot be done: " in record.message) for record in caplog.records] == [
        ("ERROR", True),
        ("INFO", True),
    ]
    assert (caplog.records[0].exc_info is None) == isinstance(error, OSError)


def test_error_log_logs_another_error_and_one_that_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    errors = ErrorLog("It cannot be done")
    for error in (FULL, FULL, ValueError("other"), FULL):
        errors.failed(error)
    errors.succeeded()
    errors.succeeded()
    errors.failed(FULL)

    lines = [record.message.split(": ")[1] for record in caplog.records if record.levelname == "ERROR"]
    assert [line.removesuffix(" (Logged once.)") for line in lines] == [
        "No space left on device.",
        "other.",
        "No space left on device.",
        "No space left on device.",
    ]


def test_worker_whose_state_folder_is_full_at_start_shares_its_state_once_there_is_space(
    bundles: BundleWriter, start: StartService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "RETRY_INTERVAL_S", 0.01)
    is_full, replace = True, shared_state._replace

    def replace_if_there_is_space(path: Path, record: Any) -> None:
        if is_full:
            raise FULL
        replace(path, record)

    monkeypatch.setattr(shared_state, "_replace", replace_if_there_is_space)
    publish_version(bundles, 1)
    settings = {"workers": 2, "state_dir": tmp_path, "model_control": "poll", "poll_interval_s": 0.02}
    service = start(bundles.root, **settings)
    assert not [*tmp_path.glob("workers/worker-*.json")]

    publish_version(bundles, 2)
    wait_for(lambda: answering_version(service) == 2)  # it polls
    is_full = False
    wait_for(lambda: [*tmp_path.glob("workers/worker-*.json")])


def test_reaper_checks_other_connections_after_an_error() -> None:
    checked: list[str] = []

    def fail(_: float) -> None:
        checked.append("failing")
        raise RuntimeError

    async def reap() -> None:
        reaper, loop = ConnectionReaper(), asyncio.get_running_loop()
        for check in (fail, lambda _: checked.append("right")):
            reaper.add(mock.Mock(loop=loop, check_timeouts=check))
        reaper._reap(loop)
        reaper._reap(loop)

    asyncio.run(reap())

    assert sorted(checked) == ["failing", "right", "right"]


def test_trimmer_goes_on_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "RETRY_INTERVAL_S", 0.0)
    monkeypatch.setattr("normfold.service.repository.background.arena_trimmer.INTERVAL_S", 0.0)
    calls = 0

    async def check(_: ArenaTrimmer) -> int:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise asyncio.CancelledError
        raise ValueError

    monkeypatch.setattr(ArenaTrimmer, "check", check)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(ArenaTrimmer(None, None).run())  # type: ignore[arg-type]

    assert calls == 3

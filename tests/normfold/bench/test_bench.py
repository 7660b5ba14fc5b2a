"""`normfold.bench` against a real service, and against servers that refuse, fail, stall and hang up."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normfold
from normfold.errors import ArgumentError, ClientError, MissingPackageError, ResponseError, UnreachableError
from normfold.service.auth.key_admin import create_key
from tests.support.bundles import BundleWriter
from tests.support.service import Service, StartService
from tests.support.waiting import wait_until_ready

QUICK: dict[str, Any] = {"duration_s": 0.2, "warm_up_s": 0.0}

StartPretended = Callable[..., Any]


def served_rows(service: Service, model: str) -> int:
    """Return the rows that the service has run of a model."""
    stats = service.client.get(f"/v2/models/{model}/stats").json()["model_stats"]
    return sum(one["inference_count"] for one in stats)


def url_of(service: Service, protocol: str) -> str:
    """Return the URL of a service for a protocol."""
    if protocol == "grpc":
        return f"grpc://127.0.0.1:{service.app.state.grpc_server.port}"
    return str(service.client.base_url)


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "form"), [("http", "binary"), ("http", "json"), ("grpc", "binary")])
def test_bench_counts_what_the_service_ran(
    bundles: BundleWriter, start: StartService, protocol: str, form: str
) -> None:
    bundles.digits(1)
    service = start(bundles.root, grpc_port=0)

    result = normfold.bench(
        url_of(service, protocol), "digits", connections=[1, 4], rates=[50], rows=3, format=form, **QUICK
    )

    closed, wider, opened = result.levels
    assert (result.protocol, result.format, result.rows) == (protocol, form, 3)
    assert (closed.connections, wider.connections, opened.target_rate) == (1, 4, 50)
    assert sum(level.requests for level in result.levels) * 3 + 3 == served_rows(service, "digits")
    for level in result.levels:
        assert level.answered == level.requests > 0
        assert (level.refused, level.failed, level.unfinished) == (0, 0, 0)
        assert 0 < level.p50_ms <= level.p90_ms <= level.p99_ms <= level.max_ms  # type: ignore[operator]
        assert level.rows_rate == 3 * level.rate
        assert level.processor_share > 0
    assert not result.interrupted


@pytest.mark.slow
def test_bench_sends_its_key(bundles: BundleWriter, start: StartService, tmp_path: Path) -> None:
    bundles.digits(1)
    _, key = create_key(tmp_path / "keys.json", "load", ["infer"])
    service = start(bundles.root, grpc_port=0, keys=tmp_path / "keys.json")
    wait_until_ready(service.client)
    for protocol in ("http", "grpc"):
        url = url_of(service, protocol)
        assert not normfold.bench(url, "digits", key=key, connections=[1], **QUICK).levels[0].errors
        with pytest.raises(ClientError, match="key"):
            normfold.bench(url, "digits", **QUICK)


@pytest.mark.slow
def test_bench_counts_refusals_apart_from_errors(pretend_service: StartPretended) -> None:
    answers = {1: (503, "The queue is full."), 2: (429, "Too many."), 3: (500, "It failed."), 4: (404, "")}
    service = pretend_service(lambda number: answers.get(number % 5, (200, "")))

    [level] = normfold.bench(service.url, "m", connections=[2], **QUICK).levels

    assert level.requests == len(service.bodies) - 1 > 10
    assert level.refusals.keys() == {"503", "429"}
    assert level.errors.keys() == {"500", "404"}
    assert level.sentences == {"503": "The queue is full.", "429": "Too many.", "500": "It failed.", "404": ""}
    assert level.answered + level.refused + level.failed == level.requests
    for count in (*level.refusals.values(), *level.errors.values()):
        assert count == pytest.approx(level.requests / 5, abs=2)


@pytest.mark.slow
def test_bench_counts_requests_without_an_answer(pretend_service: StartPretended) -> None:
    gone = threading.Event()

    def answer(number: int) -> tuple[int, str] | None:
        if number % 10 == 4:
            gone.wait(timeout=20)
        return None if number % 10 == 8 else (200, "")

    service = pretend_service(answer, keeps_connections=False)
    try:
        [level] = normfold.bench(service.url, "m", rates=[200], arrivals="constant", timeout_s=0.3, **QUICK).levels
    finally:
        gone.set()
    assert level.requests == 40
    assert level.errors == {"timeout": 4, "connection": 4}


@pytest.mark.slow
def test_bench_connects_again_where_the_service_closes_connections(pretend_service: StartPretended) -> None:
    service = pretend_service(keeps_connections=False)
    [level] = normfold.bench(service.url, "m", connections=[2], **QUICK).levels
    assert level.answered == level.requests > 2
    assert not level.errors


@pytest.mark.slow
def test_open_loop_has_the_whole_of_a_stall_in_its_latencies(pretend_service: StartPretended) -> None:
    """A service that stalls for half of a second: of 200 requests in it, 100 are due meanwhile, and wait for its end.

    A closed loop sends one request on each connection meanwhile, and hides the stall below its p90.
    """
    stall_at, end_s = [40], [0.0]

    def answer(number: int) -> tuple[int, str]:
        if stall_at and number >= stall_at[0]:
            stall_at.clear()
            end_s[0] = time.perf_counter() + 0.5
        time.sleep(max(0.0, end_s[0] - time.perf_counter()))
        return 200, ""

    service = pretend_service(answer)
    options: dict[str, Any] = {"duration_s": 1.0, "warm_up_s": 0.0}
    [opened] = normfold.bench(service.url, "m", rates=[200], arrivals="constant", max_connections=4, **options).levels
    stall_at.append(len(service.bodies) + 40)
    [closed] = normfold.bench(service.url, "m", connections=[4], **options).levels

    assert opened.requests == opened.answered == 200
    assert opened.p90_ms == pytest.approx(400, abs=75)  # 20 of 200 waited for longer than 0.4 s
    assert opened.max_ms == pytest.approx(500, abs=75)
    assert closed.max_ms == pytest.approx(500, abs=75)
    assert closed.p90_ms is not None
    assert closed.p90_ms < 100


@pytest.mark.slow
def test_interrupt_ends_the_measurement_and_keeps_what_was_measured(pretend_service: StartPretended) -> None:
    begun: list[str] = []

    def interrupt_later(step: str) -> None:
        begun.append(step)
        if step == "2 connections: connecting":
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    result = normfold.bench(
        pretend_service().url, "m", connections=[1, 2, 3], duration_s=1, warm_up_s=0, progress=interrupt_later
    )

    assert result.interrupted
    assert [level.connections for level in result.levels] == [1, 2]
    assert result.levels[0].seconds == pytest.approx(1)
    assert 0 < result.levels[1].seconds < 0.9
    assert begun[-1] != "3 connections: connecting"


@pytest.mark.slow
def test_bench_runs_within_a_loop_as_in_a_notebook(pretend_service: StartPretended) -> None:
    async def run_cell() -> normfold.BenchResult:
        return normfold.bench(pretend_service().url, "m", connections=[1], **QUICK)

    assert asyncio.run(run_cell()).levels[0].answered > 0


@pytest.mark.slow
def test_samples_are_sent_as_they_are(pretend_service: StartPretended, tmp_path: Path) -> None:
    rows = np.arange(14, dtype=np.float32).reshape(7, 2)
    np.savez(tmp_path / "rows.npz", x=rows)
    service = pretend_service()

    result = normfold.bench(
        f"{service.url}/prefix", "m", samples=tmp_path / "rows.npz", rows=2, connections=[1], **QUICK
    )

    assert result.rows == 2
    assert {body[-16:] for body in service.bodies} == {rows[at : at + 2].tobytes() for at in (0, 2, 4)}
    assert {path for path in service.paths if path.endswith("infer")} == {"/prefix/v2/models/m/infer"}


def test_error_of_the_first_request_is_raised(pretend_service: StartPretended) -> None:
    service = pretend_service(lambda _: (400, "Input 'x' is wrong."))
    with pytest.raises(ClientError, match="^The service answers the request with 400: Input 'x' is wrong"):
        normfold.bench(service.url, "m", **QUICK)


def test_service_without_the_model_is_an_error(pretend_service: StartPretended) -> None:
    with pytest.raises(ResponseError, match="nothing here") as caught:
        normfold.bench(pretend_service().url, "other")
    assert caught.value.status == 404


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_service_that_does_not_answer_is_unreachable(scheme: str) -> None:
    with pytest.raises(UnreachableError):
        normfold.bench(f"{scheme}://127.0.0.1:9", "m")


def test_package_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("normfold._shared.packages.find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r"needs the package 'grpc'; .*\[grpc\]"):
        normfold.bench("grpc://127.0.0.1:9", "m")
    result = normfold.BenchResult("http://h:1", "m", None, "http", "binary", 1, 9, 0.0, "poisson", (), False)
    with pytest.raises(MissingPackageError, match=r"needs the package 'matplotlib'; .*\[plots\]"):
        result.write_picture(tmp_path / "load.svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "127.0.0.1:8000"}, "`url` is '127.0.0.1:8000'; it must be of http"),
        ({"url": "http://u:p@h"}, "without user"),
        ({"url": "http://h:0"}, "`url` is"),
        ({"url": "http://h\n"}, "`url` is"),
        ({"url": "grpc://h:1/p"}, "gRPC has no paths"),
        ({"url": "grpc://h:1", "protocol": "http"}, "does not go with `protocol` http"),
        ({"protocol": "ftp"}, "`protocol` must be http or grpc"),
        ({"model": ""}, "`model` must be"),
        ({"connections": [0]}, "`connections` must be a whole number of at least 1, not 0"),
        ({"connections": 16}, "`connections` must be a list"),
        ({"connections": 0}, "`connections` must be a list"),
        ({"connections": []}, "`connections` and `rates` are empty"),
        ({"rates": [math.inf]}, "`rates` must be a number above 0"),
        ({"rates": [-1.0]}, "`rates` must be a number above 0"),
        ({"rates": [1e9]}, "`rates` must be a number above 0, and at most 100,000"),
        ({"duration_s": 0}, "`duration_s` must be"),
        ({"warm_up_s": -1}, "`warm_up_s` must be"),
        ({"arrivals": "bursts"}, "`arrivals` must be poisson or constant"),
        ({"rows": 0}, "`rows` must be"),
        ({"shape": [2]}, "`shape` must be a dict"),
        ({"key": "a\r\nb"}, "`key` has characters"),
        ({"ca": "none.pem"}, "`ca` is for https and grpcs"),
        ({"url": "https://h", "ca": "none.pem"}, "`ca` 'none.pem' cannot be used: No such file"),
        ({"format": "xml"}, "`format` must be binary or json"),
        ({"shape": {"y": [1, 2]}}, "`shape` names 'y'; the inputs of 'm' are 'x'"),
        ({"shape": {"x": [1, 3]}}, r"`shape` gives \[1, 3\] for input 'x', whose shape is \[-1, 2\]"),
        ({"shape": {"x": "1x2"}}, "`shape` must be a list of whole numbers"),
        ({"shape": {"x": [3, 2]}, "rows": 2}, "`rows` is 2, but no input has so many"),
        ({"samples": "none.npz"}, "`samples` 'none.npz' cannot be read"),
    ],
)
def test_argument_that_cannot_be_used_is_named(
    pretend_service: StartPretended, arguments: dict[str, Any], message: str
) -> None:
    given = {"url": pretend_service().url, "model": "m", **arguments}
    with pytest.raises(ArgumentError, match=message):
        normfold.bench(**given)

"""`normfold bench`, as a user meets it: numbers behind options, table, JSON, picture, exit codes."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import normfold as api
from normfold import BenchResult, LoadResult
from normfold.cli.number_lists import NumberListCommand
from normfold.display.terminal.bench import bench_tables
from tests.support.bundles import BundleWriter
from tests.support.command import RunCommand, in_one_line
from tests.support.service import StartService
from tests.support.waiting import wait_for

LEVEL = LoadResult(
    connections=64,
    target_rate=None,
    seconds=10.0,
    requests=1000,
    answered=1000,
    refusals={},
    errors={},
    sentences={},
    unfinished=0,
    rate=12_345.6,
    rows_rate=98_764.8,
    p50_ms=0.12345,
    p90_ms=4.0,
    p99_ms=56.789,
    max_ms=1234.5,
    processor_share=0.31,
    send_delay_p99_ms=None,
)
OPEN = replace(LEVEL, target_rate=500.0, send_delay_p99_ms=0.06)


def result_of(*levels: LoadResult, interrupted: bool = False) -> BenchResult:
    """Return a result with these levels."""
    return BenchResult("http://h:1", "m", None, "http", "binary", 8, 400, 2.0, "poisson", levels, interrupted)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Let `normfold.bench` return the result in the list's first entry; what it was given is appended to the list."""
    calls: list[dict[str, Any]] = []

    def bench(url: str, model: str, **options: Any) -> Any:
        calls.append({"url": url, "model": model, **options})
        return calls[0]["result"]

    monkeypatch.setattr(api, "bench", bench)
    return calls


@pytest.mark.parametrize(
    ("arguments", "spelt_out"),
    [
        ("U M --connections 1 16 64", "U M --connections 1 --connections 16 --connections 64"),
        ("--rate 500 1e3 U M", "--rate 500 --rate 1e3 U M"),
        ("--connections 1 2 --rate 3 4", "--connections 1 --connections 2 --rate 3 --rate 4"),
        ("--connections 1 --rows 2 64", "--connections 1 --rows 2 64"),
        ("--connections -1 2", "--connections -1 --connections 2"),
        ("U --json", "U --json -"),
        ("--json --rows 3", "--json - --rows 3"),
        ("--json - U", "--json - U"),
        ("--json out.json U 5", "--json out.json U 5"),
        ("--connections", "--connections"),
    ],
)
def test_numbers_behind_an_option_belong_to_it(arguments: str, spelt_out: str) -> None:
    command = NumberListCommand("bench")
    assert list(command.spell_out(arguments.split())) == spelt_out.split()


def test_options_arrive_as_arguments(normfold: RunCommand, pretend: list[dict[str, Any]]) -> None:
    pretend.append({"result": result_of(LEVEL, OPEN)})
    given = "http://h:1 m --connections 1 16 --rate 500 1000 --shape a=1x2 --shape b= --key k --warm-up 0 --format json"
    code, _, err = normfold("bench", *given.split())
    assert (code, err) == (0, "")
    call = pretend[1]
    assert call["connections"] == [1, 16]
    assert call["rates"] == [500.0, 1000.0]
    assert call["shape"] == {"a": [1, 2], "b": []}
    assert (call["key"], call["warm_up_s"], call["format"]) == ("k", 0.0, "json")


def test_key_is_read_from_the_environment(
    normfold: RunCommand, pretend: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend.append({"result": result_of(LEVEL)})
    monkeypatch.setenv("NORMFOLD_CLIENT_KEY", "secret")
    normfold("bench", "http://h:1", "m")
    assert pretend[1]["key"] == "secret"


def test_tables_fit_80_columns() -> None:
    wide = replace(OPEN, target_rate=125_000.0, refusals={"503": 123_456}, errors={"500": 1_234_567}, max_ms=30_000.0)
    closed = replace(wide, target_rate=None, rate=123_456.7, rows_rate=7_901_234.0, p50_ms=None)
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        for table in bench_tables(result_of(closed, wide)):
            console.print(table)
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for shown in ("123,457", "7,901k", "123,456", "1,235k", "30,000", "56.8", "4.00", "31%", "–", "125,000"):
        assert shown in text


@pytest.mark.parametrize(
    ("level", "options", "code"),
    [
        (LEVEL, (), 0),
        (replace(LEVEL, refusals={"503": 900}, answered=100), (), 0),
        (replace(LEVEL, errors={"500": 1}, sentences={"500": "It failed."}), (), 1),
        (replace(LEVEL, errors={"500": 10}), ("--max-errors", "0.01"), 0),
        (replace(LEVEL, errors={"500": 11}), ("--max-errors", "0.01"), 1),
    ],
)
def test_errors_over_the_limit_exit_with_1(
    normfold: RunCommand, pretend: list[dict[str, Any]], level: LoadResult, options: Sequence[str], code: int
) -> None:
    pretend.append({"result": result_of(level)})
    found, out, err = normfold("bench", "http://h:1", "m", *options)
    assert found == code
    assert ("ended with an error" in err) is (code == 1)
    for status, count in (*level.errors.items(), *level.refusals.items()):
        assert f"64 connections: {status} × {count}" in out


@pytest.mark.parametrize(
    ("level", "warning"),
    [
        (LEVEL, None),
        (replace(LEVEL, processor_share=0.97), "(64 connections: 97%): the service may be faster"),
        (OPEN, None),
        (replace(OPEN, send_delay_p99_ms=20.0), "(500 requests a second: 20 ms)"),
    ],
)
def test_load_generator_that_limits_the_load_says_so(
    normfold: RunCommand, pretend: list[dict[str, Any]], level: LoadResult, warning: str | None
) -> None:
    pretend.append({"result": result_of(level)})
    _, _, err = normfold("bench", "http://h:1", "m")
    assert (warning in in_one_line(err)) if warning else not err


def test_json_goes_to_standard_output_or_to_a_file(
    normfold: RunCommand, pretend: list[dict[str, Any]], tmp_path: Path
) -> None:
    pretend.append({"result": result_of(LEVEL, replace(OPEN, p50_ms=None))})
    _, out, _ = normfold("bench", "http://h:1", "m", "--json")
    record = json.loads(out)
    assert [level["loop"] for level in record["levels"]] == ["closed", "open"]
    assert record["levels"][0]["p99_ms"] == 56.789
    assert record["levels"][1]["p50_ms"] is None

    _, out, _ = normfold("bench", "http://h:1", "m", "--json", "found.json")
    assert "connections" in out
    assert json.loads((tmp_path / "found.json").read_text()) == record


@pytest.mark.slow
@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("b.SVG", b"<?xml")])
def test_picture_is_drawn(
    normfold: RunCommand, pretend: list[dict[str, Any]], tmp_path: Path, name: str, start: bytes
) -> None:
    pretend.append({"result": result_of(LEVEL, replace(LEVEL, rate=1.0), OPEN, replace(OPEN, answered=0, p50_ms=None))})
    code, _, err = normfold("bench", "http://h:1", "m", "--picture", name)
    assert (code, err) == (0, "")
    assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--picture", "a.jpg"), "--picture 'a.jpg' must end with .png or .svg"),
        (("--picture", "none/a.png"), "--picture 'none/a.png' cannot be written"),
        (("--json", "none/a.json"), "'none/a.json' cannot be written"),
        (("--json", "."), "'.' cannot be written"),
        (("--shape", "a"), "--shape 'a' must be INPUT=SIZES"),
        (("--shape", "a=1x"), "--shape 'a=1x' must be INPUT=SIZES"),
        (("--shape", "a=1", "--shape", "a=2"), "--shape is given twice for the input 'a'"),
        (("--rate", "nan"), "--rate must be a number above 0, and at most 100,000, not nan"),
        (("--duration", "0"), "--duration must be a number above 0"),
        (("--timeout-s", "-1"), "--timeout-s must be a number above 0"),
        (("--connections", "1", "0"), "--connections"),
        (("--connections", "1.5"), "--connections"),
        (("--max-errors", "2"), "--max-errors"),
    ],
)
def test_option_that_cannot_be_used_exits_with_2(
    normfold: RunCommand, options: Sequence[str], message: str, tmp_path: Path
) -> None:
    code, out, err = normfold("bench", "http://127.0.0.1:9", "m", *options)
    assert (code, out) == (2, "")
    assert message in in_one_line(err)
    assert not list(tmp_path.iterdir())


def test_service_that_is_not_there_exits_with_3(normfold: RunCommand) -> None:
    code, _, err = normfold("bench", "http://127.0.0.1:9", "m")
    assert code == 3
    assert "http://127.0.0.1:9 cannot be reached" in err


@pytest.mark.slow
def test_interrupt_prints_what_was_measured_and_exits_with_130(
    normfold: RunCommand, bundles: BundleWriter, start: StartService
) -> None:
    bundles.digits(1)
    client = start(bundles.root).client
    url = str(client.base_url)

    def has_run() -> bool:
        stats = client.get("/v2/models/digits/stats").json()["model_stats"]
        return bool(stats[0]["inference_count"] > 10)

    def interrupt() -> None:
        wait_for(has_run)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    code, out, err = normfold("bench", url, "digits", "--connections", "2", "3", "--warm-up", "0", "--duration", "20")
    assert code == 130
    assert len(out.splitlines()) == 3
    assert "Interrupted" in err

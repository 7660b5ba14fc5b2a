"""`normfold bench`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normfold.cli.number_lists import NumberListCommand
from normfold.contract.errors import InputError
from normfold.display.terminal.bench import bench_record, bench_tables, failure_sentences, warning_sentences
from normfold.display.terminal.console import err, fail, out, print_json, warn

if TYPE_CHECKING:
    from normfold import BenchResult

LOAD, REQUESTS, SERVICE, RESULT = "Load", "Requests", "Service", "Result"
INTERRUPTED = 130

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


class _Arrivals(StrEnum):
    POISSON = "poisson"
    CONSTANT = "constant"


class _Protocol(StrEnum):
    HTTP = "http"
    GRPC = "grpc"


class _Format(StrEnum):
    BINARY = "binary"
    JSON = "json"


@app.command(cls=NumberListCommand)
def bench(
    url: Annotated[str, typer.Argument(help="The service: http, https, grpc or grpcs.", metavar="URL")],
    model: Annotated[str, typer.Argument(help="Its model.", metavar="MODEL")],
    connections: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=10_000,
            metavar="N...",
            help="Closed loops, one after the other: so many connections, each of which sends its next request when "
            "the one before is answered.",
            show_default="1 16 64 without --rate",
            rich_help_panel=LOAD,
        ),
    ] = None,
    rate: Annotated[
        list[float] | None,
        typer.Option(
            metavar="R...",
            help="Open loops, one after the other: so many requests a second, whatever the answers; latency counts "
            "from when a request was due.",
            rich_help_panel=LOAD,
        ),
    ] = None,
    arrivals: Annotated[
        _Arrivals, typer.Option(help="Gaps of an open loop: random or equal.", rich_help_panel=LOAD)
    ] = _Arrivals.POISSON,
    max_connections: Annotated[
        int, typer.Option(min=1, max=10_000, help="Connections of an open loop.", rich_help_panel=LOAD)
    ] = 256,
    duration: Annotated[
        float, typer.Option(max=86_400, help="Seconds to measure, of each loop.", rich_help_panel=LOAD)
    ] = 10.0,
    warm_up: Annotated[
        float, typer.Option(min=0, max=86_400, help="Seconds before each measurement.", rich_help_panel=LOAD)
    ] = 2.0,
    timeout_s: Annotated[
        float,
        typer.Option(
            max=86_400, help="Seconds after which a request is given up, and is an error.", rich_help_panel=LOAD
        ),
    ] = 30.0,
    rows: Annotated[
        int, typer.Option(min=1, help="Rows of a request, in a free first axis.", rich_help_panel=REQUESTS)
    ] = 1,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=1x3x224x224",
            help="Whole shape of an input, for free sizes after the first axis; repeatable.",
            rich_help_panel=REQUESTS,
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Tensors to send: an array for each input, rows first.",
            show_default="random values",
            rich_help_panel=REQUESTS,
        ),
    ] = None,
    format_: Annotated[
        _Format | None,
        typer.Option(
            "--format",
            help="Tensors in HTTP: as bytes after the JSON, or in JSON alone.",
            show_default="binary, if the service takes it",
            rich_help_panel=REQUESTS,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random values and gaps.", rich_help_panel=REQUESTS)] = 0,
    version: Annotated[
        int | None,
        typer.Option(min=1, help="Version of the model.", show_default="the service's choice", rich_help_panel=SERVICE),
    ] = None,
    protocol: Annotated[
        _Protocol | None,
        typer.Option(help="Protocol of the requests.", show_default="that of the URL", rich_help_panel=SERVICE),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(envvar="NORMFOLD_CLIENT_KEY", help="API key.", metavar="KEY", rich_help_panel=SERVICE),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            help="Certificates to trust (PEM), for https and grpcs.",
            metavar="FILE",
            show_default="those of the system",
            rich_help_panel=SERVICE,
        ),
    ] = None,
    max_errors: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Exit with 1 if more of a loop's requests end with an error; refusals are none.",
            rich_help_panel=RESULT,
        ),
    ] = 0.0,
    json_: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE|-", help="Write one JSON object; - is standard output.", rich_help_panel=RESULT
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Draw latency over load.", metavar="FILE.png|FILE.svg", rich_help_panel=RESULT),
    ] = None,
) -> None:
    """Measure rate and latency of a service under load: Normfold's, Triton, or any of the Open Inference Protocol.

    Latencies are of right answers. 429 and 503 are refusals; other statuses, no connection and no answer in time are
    errors. Own CPU is what the load generator itself used of one core: near 100 %, the service may be faster than
    measured. Run it on another machine than the service, or on other cores. Ctrl-C ends it and prints what was
    measured.

    Example: `normfold bench http://127.0.0.1:8000 digits --connections 1 16 64 --rate 500 1000`

    Example: `normfold bench grpc://127.0.0.1:8001 digits --rows 8 --picture digits.svg`
    """
    from normfold import bench as measure

    targets = [path for path in (json_, picture) if path is not None and str(path) != "-"]
    _check_targets(targets, picture)
    with err.status("starting", refresh_per_second=1) as status:  # drawing takes processor time from the load
        result = measure(
            url,
            model,
            connections=connections,
            rates=rate,
            arrivals=arrivals,
            max_connections=max_connections,
            duration_s=duration,
            warm_up_s=warm_up,
            timeout_s=timeout_s,
            rows=rows,
            shape=_parse_shapes(shape or []),
            samples=samples,
            version=version,
            protocol=protocol,
            format=format_,
            key=key,
            ca=ca,
            seed=seed,
            progress=status.update,
        )
    _print(result, json_)
    if picture is not None and result.levels:
        result.write_picture(picture)
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)
    if result.error_share > max_errors:
        fail(f"{result.error_share:.2%} of the requests of a loop ended with an error; allowed are {max_errors:.2%}.")
        raise typer.Exit(1)


def _check_targets(targets: list[Path], picture: Path | None) -> None:
    """Check before the load, which may take minutes, that the results can be written."""
    if picture is not None:
        from normfold._bench.picture import check_picture

        check_picture(picture)
    for path in targets:
        if not path.parent.is_dir() or path.is_dir():
            raise InputError(f"{str(path)!r} cannot be written: its folder does not exist, or it is a folder itself.")


def _parse_shapes(texts: list[str]) -> dict[str, list[int]]:
    """Parse texts such as input=1x3x224x224; a scalar's has nothing behind the sign.

    Raises:
        InputError: a text has another form, or two name the same input.
    """
    shapes: dict[str, list[int]] = {}
    for text in texts:
        name, sign, sizes = text.rpartition("=")
        parts = sizes.split("x") if sizes else []
        if not sign or not name or not all(part.isascii() and part.isdecimal() for part in parts):
            raise InputError(f"--shape {text!r} must be INPUT=SIZES, such as input=1x3x224x224.")
        if name in shapes:
            raise InputError(f"--shape is given twice for the input {name!r}.")
        shapes[name] = [int(part) for part in parts]
    return shapes


def _print(result: BenchResult, json_path: Path | None) -> None:
    """Print what was measured: JSON alone where that goes to standard output."""
    for sentence in warning_sentences(result):
        warn(sentence)
    if result.interrupted:
        err.print(
            "Interrupted; this was measured until then." if result.levels else "Interrupted before a measurement."
        )
    if json_path is not None and str(json_path) == "-":
        print_json(bench_record(result))
        return
    if json_path is not None:
        from normfold.contract.atomic_write import os_errors_as_write_errors, write_atomically

        with os_errors_as_write_errors(json_path):
            data = json.dumps(bench_record(result), indent=2, allow_nan=False) + "\n"
            write_atomically(json_path, data.encode())
    for table in bench_tables(result):
        out.print(table)
    for sentence in failure_sentences(result):
        out.print(sentence, markup=False)

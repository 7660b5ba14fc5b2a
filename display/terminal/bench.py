"""Rate and latency of a service under load, as a table of 80 columns, sentences, and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from normfold._bench.result import BenchResult, LoadResult

_QUANTILES = ("p50_ms", "p90_ms", "p99_ms", "max_ms")


def bench_tables(result: BenchResult) -> Iterator[Table]:
    """Yield a table for closed loops, and one for open loops, with a row for each level."""
    for is_open in (False, True):
        levels = [level for level in result.levels if (level.target_rate is not None) is is_open]
        if levels:
            yield _table("requests due\na second" if is_open else "connections", levels)


def _table(load: str, levels: list[LoadResult]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    heads = (load, "answers\na second", "rows\na second", "p50\nms", "p90\nms", "p99\nms", "max\nms")
    for head in (*heads, "re-\nfused", "errors", "own\nCPU"):
        table.add_column(head, justify="right", no_wrap=True)
    for level in levels:
        table.add_row(
            f"{level.connections if level.target_rate is None else level.target_rate:,.6g}",
            _number(level.rate),
            _number(level.rows_rate),
            *(_number(getattr(level, name)) for name in _QUANTILES),
            _count(level.refused, "yellow"),
            _count(level.failed, "red"),
            Text(f"{level.processor_share:.0%}", style="yellow" if level.is_busy else ""),
        )
    return table


def failure_sentences(result: BenchResult) -> Iterator[str]:
    """Yield one sentence for each status of each level that is not a right answer."""
    for level in result.levels:
        for status, count in (*level.refusals.items(), *level.errors.items()):
            reason = level.sentences.get(status, "")
            yield f"{level.load}: {status} × {count:,}{f': {reason}' if reason else '.'}"


def warning_sentences(result: BenchResult) -> Iterator[str]:
    """Yield what the reader must know: the load generator was what limited the load, or added to the latency."""
    busy = [level for level in result.levels if level.is_busy]
    if busy:
        found = "; ".join(f"{level.load}: {level.processor_share:.0%}" for level in busy)
        yield f"The load generator used its core up ({found}): the service may be faster than measured here."
    late = [level for level in result.levels if level.is_late]
    if late:
        found = "; ".join(f"{level.load}: {level.send_delay_p99_ms:.2g} ms" for level in late)
        yield (
            f"The load generator sent one request in a hundred late by at least so much ({found}), which is a part of "
            "the latency here: its core has other work to do."
        )


def bench_record(result: BenchResult) -> dict[str, Any]:
    """Return plain types for JSON; a latency without a right answer is null."""
    return {**asdict(result), "levels": [_level_record(level) for level in result.levels]}


def _level_record(level: LoadResult) -> dict[str, Any]:
    kind = "closed" if level.target_rate is None else "open"
    return {"loop": kind, **asdict(level), "busy": level.is_busy, "late": level.is_late}


def _number(value: float | None) -> str:
    """Return a number with three digits, or more before the point; a dash for none."""
    if value is None:
        return "–"
    return _thousands(round(value)) if value >= 99.95 else f"{value:#.3g}"


def _count(count: int, style: str) -> Text:
    return Text(_thousands(count), style=style if count else "")


def _thousands(count: int) -> str:
    """Return a whole number; from a million on in thousands, so that ten columns fit into 80."""
    return f"{count:,}" if count < 1_000_000 else f"{count / 1000:,.0f}k"

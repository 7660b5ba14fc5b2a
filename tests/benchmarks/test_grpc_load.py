"""What h2load prints, read."""

from __future__ import annotations

import pytest

from benchmarks.serve.grpc_load import framed, read_result

LOG = "1\t200\t3000\n2\t200\t1000\n3\t200\t2000\n"


def printed(data: int) -> str:
    return (
        f"requests: 3 total\ntraffic: 1.00KB (1024) total, 30B (30) headers (space savings 95.93%), 1B ({data}) data\n"
    )


def test_grpc_loop_reads_calls_and_latencies() -> None:
    found = read_result(printed(36), LOG, 12)
    assert (found.calls, found.p50_ms, found.p99_ms) == (3, 2.0, 3.0)


@pytest.mark.parametrize(("data", "log"), [(24, LOG), (0, "")])
def test_grpc_loop_with_an_error_ends(data: int, log: str) -> None:
    with pytest.raises(SystemExit, match="calls received"):
        read_result(printed(data), log, 12)


def test_grpc_message_has_its_length_before_it() -> None:
    assert framed(b"abc") == b"\0\0\0\0\3abc"

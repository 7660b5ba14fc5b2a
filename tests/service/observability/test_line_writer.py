"""Lines are written by a thread: whole, in order, and without the event loop waiting for a reader."""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
from pathlib import Path
from time import perf_counter

import pytest

from normfold.service.observability import line_writer
from normfold.service.observability.line_writer import LineWriter
from tests.support.waiting import wait_for


def read_all(descriptor: int) -> bytes:
    """Return all bytes until the writing end is closed."""
    parts = []
    while part := os.read(descriptor, 2**20):
        parts.append(part)
    os.close(descriptor)
    return b"".join(parts)


def test_lines_arrive_in_order_and_whole() -> None:
    reader, descriptor = os.pipe()
    writer = LineWriter(descriptor, "The log")
    batches = [[b"%d %s\n" % (batch, b"x" * (line % 700)) for line in range(100)] for batch in range(20)]
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(read_all(reader)))
    thread.start()

    for lines in batches:
        writer.submit(lines, sum(map(len, lines)))
    writer.close()
    thread.join()

    assert found[0] == b"".join(line for lines in batches for line in lines)


def test_no_write_to_a_pipe_is_longer_than_is_atomic(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, descriptor = os.pipe()
    writes: list[bytes] = []
    monkeypatch.setattr(line_writer, "write_all", lambda _, data: writes.append(data))
    writer = LineWriter(descriptor, "The log")
    lines = [b"x" * 300 + b"\n"] * 100 + [b"y" * 5000 + b"\n", b"z\n"]

    writer.submit(lines, sum(map(len, lines)))
    writer.close()

    assert b"".join(writes) == b"".join(lines)
    assert all(len(data) <= select.PIPE_BUF or data == lines[100] for data in writes)
    assert all(data.endswith(b"\n") for data in writes)
    assert len(writes) == 10  # 13 lines of 301 bytes in each of 8, the long one, the last
    os.close(reader)


def test_reader_that_does_not_read_loses_lines_and_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(line_writer, "MAX_PENDING_BYTES", 100_000)
    reader, descriptor = os.pipe()
    writer = LineWriter(descriptor, "The log")
    lines = [b"x" * 999 + b"\n"] * 10
    started = perf_counter()
    for _ in range(100):
        writer.submit(lines, 10_000)
    assert perf_counter() - started < 1.0

    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(read_all(reader)))
    thread.start()
    writer.close()
    thread.join()

    kept = found[0].count(b"\n")
    assert 100 <= kept < 300  # what may be pending, and what the pipe holds
    assert found[0] == lines[0] * kept
    lost = f"The log cannot be written, and lines are lost: {1000 - kept:,} came faster than its reader reads."
    assert any(message.startswith(lost) for message in caplog.messages)


def test_closing_does_not_wait_for_a_reader_that_never_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_writer, "_CLOSE_WITHIN_S", 0.05)
    reader, descriptor = os.pipe()
    writer = LineWriter(descriptor, "The log")
    writer.submit([b"x" * 999 + b"\n"] * 1000, 1_000_000)

    writer.close()

    assert writer._thread.is_alive()
    read_all(reader)
    writer._thread.join()


def test_full_disk_loses_lines_and_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    writer = LineWriter(os.open("/dev/full", os.O_WRONLY), "The access log")
    for _ in range(3):
        writer.submit([b"x\n"], 2)
    writer.close()

    assert caplog.messages == [
        "The access log cannot be written, and lines are lost: No space left on device. (Logged once a minute.)"
    ]
    assert caplog.records[0].levelno == logging.ERROR


def test_disk_that_has_space_again_gets_later_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    write, full = os.write, threading.Event()

    def write_unless_full(descriptor: int, data: bytes) -> int:
        if full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", write_unless_full)
    writer = LineWriter(os.open(path, os.O_WRONLY | os.O_CREAT), "The log")
    full.set()
    writer.submit([b"lost\n"], 5)
    wait_for(lambda: writer.lost_lines == 1)
    full.clear()
    writer.submit([b"kept\n"], 5)
    writer.close()

    assert path.read_text() == "kept\n"

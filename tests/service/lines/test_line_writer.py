"""Lines are written by a thread: whole, in order, and without the event loop waiting for a reader."""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from normfold.service.lines import line_writer, targets
from normfold.service.lines.line_writer import LineWriter
from normfold.service.lines.targets import DescriptorTarget
from tests.support.waiting import wait_for


def read_all(descriptor: int) -> bytes:
    """Return all bytes until the writing end is closed."""
    parts = []
    while part := os.read(descriptor, 2**20):
        parts.append(part)
    os.close(descriptor)
    return b"".join(parts)


def add(writer: LineWriter, lines: Iterable[bytes]) -> None:
    for line in lines:
        writer.write(line, len(line))


def test_lines_arrive_in_order_and_whole() -> None:
    reader, descriptor = os.pipe()
    writer = LineWriter(DescriptorTarget(descriptor), "The log")
    batches = [[b"%d %s\n" % (batch, b"x" * (line % 700)) for line in range(100)] for batch in range(20)]
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(read_all(reader)))
    thread.start()

    for lines in batches:
        add(writer, lines)
    writer.close()
    thread.join()

    assert found[0] == b"".join(line for lines in batches for line in lines)


def test_no_write_to_a_pipe_is_longer_than_is_atomic(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, descriptor = os.pipe()
    writes: list[bytes] = []
    monkeypatch.setattr(targets, "write_all", lambda _, data: writes.append(data))
    writer = LineWriter(DescriptorTarget(descriptor), "The log")
    lines = [b"x" * 300 + b"\n"] * 100 + [b"y" * 5000 + b"\n", b"z\n"]

    add(writer, lines)
    writer.close()

    assert b"".join(writes) == b"".join(lines)
    assert all(len(data) <= select.PIPE_BUF or data == lines[100] for data in writes)
    assert all(data.endswith(b"\n") for data in writes)
    assert len(writes) == 10  # 13 lines of 301 bytes in each of 8, the long one, the last
    os.close(reader)


def test_reader_that_does_not_read_loses_lines_and_holds_up_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reader, descriptor = os.pipe()
    writer = LineWriter(DescriptorTarget(descriptor), "The log", max_pending_bytes=100_000)
    line = b"x" * 999 + b"\n"
    started = perf_counter()
    add(writer, [line] * 1000)
    assert perf_counter() - started < 1.0

    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(read_all(reader)))
    thread.start()
    writer.close()
    thread.join()

    kept = found[0].count(b"\n")
    assert 100 <= kept < 300  # what may be pending, and what the pipe holds
    assert found[0] == line * kept
    assert writer.lost_lines == 1000 - kept
    assert caplog.messages == [
        f"The log: {1000 - kept:,} lines are lost: they came faster than its reader reads. (Logged once a minute.)"
    ]


def test_closing_does_not_wait_for_a_reader_that_never_reads() -> None:
    reader, descriptor = os.pipe()
    writer = LineWriter(DescriptorTarget(descriptor), "The log")
    add(writer, [b"x" * 999 + b"\n"] * 1000)

    assert not writer.flush(0.01)
    writer.close(0.05)

    assert writer._thread.is_alive()
    read_all(reader)
    writer._thread.join()


def test_full_disk_loses_lines_and_is_logged_once_a_minute_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    writer = LineWriter(DescriptorTarget(os.open("/dev/full", os.O_WRONLY)), "The access log")
    for _ in range(3):
        add(writer, [b"x\n"])
        writer.flush()
    writer.close()

    assert caplog.messages == [
        f"The access log: {lines} lost: No space left on device. (Logged once a minute.)"
        for lines in ("1 line is", "2 lines are")
    ]
    assert caplog.records[0].levelno == logging.ERROR


def test_log_that_lost_lines_says_so_itself_once_it_can_be_written() -> None:
    class Target:
        write_bytes = 100

        def __init__(self) -> None:
            self.is_full, self.written = True, b""

        def write(self, data: bytes) -> None:
            if self.is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.written += data

        def close(self) -> None: ...

    target = Target()
    writer = LineWriter(target, "The log", lambda text: f"{text}\n".encode())
    for line in (b"lost\n", b"lost too\n"):
        add(writer, [line])
        writer.flush()
    target.is_full = False
    add(writer, [b"kept\n"])
    writer.close()

    report = b"The log: 2 lines are lost: No space left on device. (Logged once a minute.)\n"
    assert target.written == b"kept\n" + report


def test_handler_of_a_signal_adds_a_line_while_its_thread_adds_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    writer = LineWriter(DescriptorTarget(os.open(path, os.O_WRONLY | os.O_CREAT)), "The log")
    add_item = writer._add
    interrupted: list[bool] = []

    def add_interrupted(item: Any, at_once: bool) -> None:
        if not interrupted:
            interrupted.append(True)
            writer.write(b"of the handler\n", 15)
        add_item(item, at_once)

    monkeypatch.setattr(writer, "_add", add_interrupted)
    add(writer, [b"first\n"])
    writer.close()

    assert path.read_text() == "of the handler\nfirst\n"


def test_lines_of_several_threads_are_all_written_and_each_threads_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = LineWriter(DescriptorTarget(os.open(path, os.O_WRONLY | os.O_CREAT)), "The log")
    threads = [
        threading.Thread(target=lambda n=number: add(writer, (b"%d %d\n" % (n, i) for i in range(2000))))  # type: ignore[misc]
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()

    lines = [tuple(map(int, line.split())) for line in path.read_text().splitlines()]
    assert len(lines) == 8000
    assert all([i for n, i in lines if n == number] == list(range(2000)) for number in range(4))
    assert writer._unwritten_bytes == 0


def test_reader_that_made_a_pipe_non_blocking_gets_every_line() -> None:
    reader, descriptor = os.pipe()
    os.set_blocking(descriptor, False)
    writer = LineWriter(DescriptorTarget(descriptor), "The log")
    add(writer, [b"x" * 999 + b"\n"] * 1000)  # more than a pipe holds

    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(read_all(reader)))
    thread.start()
    writer.close()
    thread.join()

    assert found[0].count(b"\n") == 1000
    assert writer.lost_lines == 0


def test_lines_wait_for_others_unless_they_are_many_or_urgent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_writer, "FLUSH_AFTER_S", 3600.0)
    reader, descriptor = os.pipe()
    writer = LineWriter(DescriptorTarget(descriptor), "The log", flush_bytes=1000)
    add(writer, [b"x" * 499 + b"\n"] * 2)
    assert not select.select([reader], [], [], 0.05)[0]
    add(writer, [b"y\n"])  # over 1,000 bytes
    wait_for(lambda: writer.written_lines == 3)
    add(writer, [b"z\n"])
    writer.write(b"!\n", 2, at_once=True)
    wait_for(lambda: writer.written_lines == 5)
    writer.close()
    assert read_all(reader).endswith(b"z\n!\n")


def test_lines_before_a_new_target_go_to_the_one_before(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    writer = LineWriter(DescriptorTarget(os.open(first, os.O_WRONLY | os.O_CREAT)), "The log")
    add(writer, [b"1\n", b"2\n"])
    writer.set_target(DescriptorTarget(os.open(second, os.O_WRONLY | os.O_CREAT)))
    add(writer, [b"3\n"])
    writer.close()
    assert (first.read_text(), second.read_text()) == ("1\n2\n", "3\n")


def test_line_that_cannot_be_made_is_counted_and_the_others_are_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> bytes:
        raise ValueError("no tensor")

    path = tmp_path / "log"
    writer = LineWriter(DescriptorTarget(os.open(path, os.O_WRONLY | os.O_CREAT)), "The log")
    for line in (b"1\n", fail, lambda: b"2\n"):
        writer.write(line, 2)
    writer.close()
    assert path.read_text() == "1\n2\n"
    assert (writer.written_lines, writer.lost_lines, writer._unwritten_bytes) == (2, 1, 0)
    assert "a line cannot be made (no tensor)" in caplog.messages[0]


def test_disk_that_has_space_again_gets_later_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    write, full = os.write, threading.Event()

    def write_unless_full(descriptor: int, data: bytes) -> int:
        if full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", write_unless_full)
    writer = LineWriter(DescriptorTarget(os.open(path, os.O_WRONLY | os.O_CREAT)), "The log")
    full.set()
    add(writer, [b"lost\n"])
    wait_for(lambda: writer.lost_lines == 1)
    full.clear()
    add(writer, [b"kept\n"])
    writer.close()

    assert path.read_text() == "kept\n"

"""What is kept of watching: over a restart, among processes, and nothing that cannot be trusted."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from contract.monitor import Monitor, WatchedLayer
from service.shift import Sums
from service.shift_store import ShiftStore, read_sums

LAYER = WatchedLayer(node="bn", means="m", squares="s", variances=(1.0, 1.0))
MONITOR = Monitor(window_rows=50, layers=(LAYER,))


Open = Callable[[Path], ShiftStore]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Open a store that is closed behind the test."""
    with ExitStack() as stack:
        yield lambda folder: stack.enter_context(closing(ShiftStore(folder)))


def some(rows: int) -> Sums:
    """Return the sums of so many rows."""
    sums = Sums.of(MONITOR)
    sums.add_rows([(np.ones((rows, 2)), np.ones((rows, 2)))], 50)
    return sums


def test_what_a_process_left_is_taken_over_once(tmp_path: Path, opened: Open) -> None:
    first = ShiftStore(tmp_path)
    first.adopt(MONITOR)
    first.save(some(30))
    first.close()

    second, third = opened(tmp_path), opened(tmp_path)
    taken, left = second.adopt(MONITOR), third.adopt(MONITOR)

    assert taken.rows == 30
    assert left.rows == 0
    assert len(list(tmp_path.glob("*.npz"))) == 2


def test_of_those_that_live_the_sums_are_read_and_left(tmp_path: Path, opened: Open) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    one.adopt(MONITOR)
    one.save(some(30))

    assert other.adopt(MONITOR).rows == 0
    assert [sums.rows for sums in other.others(MONITOR)] == [30]


def test_a_process_that_was_killed_leaves_its_sums(tmp_path: Path, opened: Open) -> None:
    code = (
        "import os, sys; from pathlib import Path; from tests.service.test_shift_store import *;"
        "store = ShiftStore(Path(sys.argv[1])); store.adopt(MONITOR); store.save(some(20)); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, cwd=Path(__file__).parents[2])

    assert opened(tmp_path).adopt(MONITOR).rows == 20


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_a_damaged_file_counts_for_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "1-0.npz"
    path.write_bytes(content)

    assert read_sums(path, MONITOR) is None


def test_sums_of_another_monitor_count_for_nothing(tmp_path: Path, opened: Open) -> None:
    store = opened(tmp_path)
    store.adopt(MONITOR)
    other = Monitor(window_rows=50, layers=(LAYER.model_copy(update={"variances": (1.0,)}),))

    (path,) = tmp_path.glob("*.npz")

    assert read_sums(path, MONITOR) is not None
    assert read_sums(path, other) is None


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    store = ShiftStore(tmp_path / "file" / "folder")

    with caplog.at_level(logging.ERROR):
        assert store.adopt(MONITOR).rows == 0
        store.save(some(3))

    assert len(caplog.records) == 1
    assert "cannot be kept" in caplog.text

"""Recent inputs that a service keeps: the newest of all processes, in order, readable for their owner only."""

from __future__ import annotations

import io
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from normfold.contract.drift import samples as kept
from normfold.contract.drift.samples import read_stored_samples
from normfold.service.drift import sample_buffer as module
from normfold.service.drift.process_files import ProcessFiles
from normfold.service.drift.sample_buffer import SampleBuffer
from normfold.service.drift.score import WindowSums
from normfold.service.drift.store import DriftStore
from tests.support.bundles import TWO_CHANNEL_MONITOR


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of day, which the test moves."""
    now = [1e9]
    monkeypatch.setattr(module, "time", lambda: now[0])
    return now


def rows(*values: float) -> dict[str, np.ndarray]:
    """Return the tensors of a request."""
    return {"input": np.array(values, np.float32)[:, None]}


def add(samples: SampleBuffer, *values: float) -> None:
    """Keep a request."""
    samples.add(rows(*values), np.ones(len(values), bool))


def values(packed: bytes) -> list[float]:
    """Return what an archive holds."""
    with np.load(io.BytesIO(packed)) as arrays:
        return [float(value) for value in arrays["input"][:, 0]]


def ended(folder: Path, samples: SampleBuffer, files: ProcessFiles) -> None:
    """Leave what a process has, as one that ends does."""
    store = DriftStore(files, TWO_CHANNEL_MONITOR)
    store.adopt(samples)
    store.save(WindowSums.of(TWO_CHANNEL_MONITOR))
    samples.save()
    store.close()
    assert list(folder.glob("*.samples"))


@pytest.mark.parametrize(("max_rows", "expected"), [(10, [0, 1, 2, 3, 4, 5]), (4, [2, 3, 4, 5])])
def test_newest_rows_of_all_processes_are_in_order_of_time(
    tmp_path: Path, clock: list[float], max_rows: int, expected: list[float]
) -> None:
    one, other = SampleBuffer(max_rows, ProcessFiles(tmp_path)), SampleBuffer(max_rows, ProcessFiles(tmp_path))
    for number in range(6):
        clock[0] += 1
        add(one if number % 2 else other, number)
    other.save()

    assert values(one.to_npz()) == expected


def test_order_is_kept_when_the_clock_is_set_back(tmp_path: Path, clock: list[float]) -> None:
    samples = SampleBuffer(3, ProcessFiles(tmp_path))
    for number in range(5):
        clock[0] -= 3600
        add(samples, number)

    assert values(samples.to_npz()) == [2, 3, 4]


def test_rows_of_ended_processes_are_adopted_within_the_limit(tmp_path: Path, clock: list[float]) -> None:
    for number in range(4):
        clock[0] += 1
        files = ProcessFiles(tmp_path)
        samples = SampleBuffer(5, files)
        add(samples, *(10.0 * number + place for place in range(3)))
        ended(tmp_path, samples, files)
    files = ProcessFiles(tmp_path)
    last = SampleBuffer(5, files)

    with closing(DriftStore(files, TWO_CHANNEL_MONITOR)) as store:
        store.adopt(last)

    assert values(last.to_npz()) == [21, 22, 30, 31, 32]
    assert len(list(tmp_path.glob("*.samples"))) == 1


def test_rows_are_deleted_once_they_are_not_kept_any_more(tmp_path: Path) -> None:
    files = ProcessFiles(tmp_path)
    samples = SampleBuffer(5, files)
    add(samples, 1.0)
    ended(tmp_path, samples, files)

    with closing(DriftStore(ProcessFiles(tmp_path), TWO_CHANNEL_MONITOR)) as store:
        store.adopt()

    assert not list(tmp_path.glob("*.samples"))


def test_sample_files_are_readable_for_their_owner_only(tmp_path: Path) -> None:
    samples = SampleBuffer(5, ProcessFiles(tmp_path))
    add(samples, 1.0)

    samples.save()

    (path,) = tmp_path.glob("*.samples")
    assert path.stat().st_mode & 0o777 == 0o600


def test_unselected_rows_are_not_kept(tmp_path: Path) -> None:
    samples = SampleBuffer(5, ProcessFiles(tmp_path))

    samples.add(rows(1.0, np.nan, 3.0), np.array([True, False, True]))

    assert values(samples.to_npz()) == [1, 3]


def test_sample_buffer_stays_within_its_byte_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 12)
    samples = SampleBuffer(1000, ProcessFiles(tmp_path))

    add(samples, *range(100))

    assert values(samples.to_npz()) == [97, 98, 99]


def test_threads_may_save_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = SampleBuffer(500, ProcessFiles(tmp_path))
    add(samples, *range(500))

    threads = [threading.Thread(target=samples.save) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (path,) = tmp_path.iterdir()
    assert len(read_stored_samples(path)) == 500
    assert not caplog.records


@pytest.mark.parametrize("name", ["file", "times", "a/b", "..", "x.npy"])
def test_inputs_may_have_any_name(tmp_path: Path, name: str) -> None:
    samples = SampleBuffer(5, ProcessFiles(tmp_path))
    samples.add({name: np.ones((2, 3), np.float32)}, np.ones(2, bool))
    samples.save()

    (path,) = tmp_path.glob("*.samples")
    assert [list(row.tensors) for row in read_stored_samples(path)] == [[name], [name]]


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04", b"PK\x05\x06"])
def test_damaged_sample_file_is_read_as_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "1.samples"
    path.write_bytes(content)

    assert read_stored_samples(path) == []


def test_sample_file_with_mismatched_arrays_is_read_as_empty(tmp_path: Path) -> None:
    path = tmp_path / "1.samples"
    with path.open("wb") as file:
        kept.write_archive(file, {"times": np.zeros(3), "inputs/x": np.zeros((2, 1))})

    assert read_stored_samples(path) == []


def test_rows_are_written_soon_and_large_ones_more_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, write_s = [0.0], [0.0]

    def write(*_: object) -> None:
        clock[0] += write_s[0]

    monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    monkeypatch.setattr(module, "write_stored_samples", write)
    samples = SampleBuffer(500, ProcessFiles(tmp_path))
    found = []
    for write_s[0], pause_s in ((0.001, 4.5), (0.001, 4.5), (0.5, 4.5), (0.5, 4.5), (0.5, 60.0)):
        add(samples, 1)
        assert not samples.is_due
        clock[0] += pause_s
        found.append(samples.is_due)
        if samples.is_due:
            samples.save()
            assert not samples.is_changed
    assert found == [True, True, True, False, True]


def test_rows_that_could_not_be_written_stay_changed(tmp_path: Path) -> None:
    samples = SampleBuffer(500, ProcessFiles(tmp_path / "none"))
    add(samples, 1)
    samples.save()
    assert samples.is_changed
    (tmp_path / "none").mkdir()
    samples.save()
    assert not samples.is_changed

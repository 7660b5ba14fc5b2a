"""Captures of CUDA graphs exclude runs, and runs overlap."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

from normfold.service.runtime.capture_lock import CaptureLock

TIMEOUT_S = 10


def test_runs_overlap() -> None:
    lock, inside = CaptureLock(), Event()

    def run() -> None:
        with lock.running():
            inside.set()

    with ThreadPoolExecutor() as threads, lock.running():
        threads.submit(run)
        assert inside.wait(TIMEOUT_S)


def test_capture_waits_for_runs_and_goes_before_later_ones() -> None:
    lock, waits, order = CaptureLock(), Event(), list[str]()

    def capture() -> None:
        waits.set()
        with lock.capturing():
            order.append("capture")

    def run() -> None:
        with lock.running():
            order.append("later run")

    with ThreadPoolExecutor() as threads:
        with lock.running():
            captured = threads.submit(capture)
            assert waits.wait(TIMEOUT_S)
            while not lock._is_capturing:  # the capture waits now
                pass
            later = threads.submit(run)
            order.append("run")
        captured.result(TIMEOUT_S)
        later.result(TIMEOUT_S)
    assert order == ["run", "capture", "later run"]


def test_captures_exclude_each_other_and_failing_ones_release_the_lock() -> None:
    lock, inside, counts = CaptureLock(), list[int](), list[int]()

    def capture(number: int) -> None:
        with lock.capturing():
            inside.append(number)
            counts.append(len(inside))
            inside.remove(number)
            raise RuntimeError("it cannot be captured")

    with ThreadPoolExecutor(4) as threads:
        errors = [future.exception() for future in [threads.submit(capture, number) for number in range(20)]]
    assert all(isinstance(error, RuntimeError) for error in errors)
    assert counts == [1] * 20
    with lock.running():
        pass

"""The thread pool: results and errors of its calls, and how it is closed."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import Any

import pytest

from normfold.service.batching import thread_pool as module
from normfold.service.batching.thread_pool import ThreadPool

WHO: ContextVar[str] = ContextVar("who")


def test_thread_pool_runs_a_call_in_the_callers_context() -> None:
    async def ask(name: str) -> tuple[str, str]:
        WHO.set(name)
        return await workers.call(lambda: (WHO.get(), threading.current_thread().name))

    async def ask_all() -> list[tuple[str, str]]:
        return await asyncio.gather(*(ask(str(number)) for number in range(50)))

    workers = ThreadPool(threads=3)
    answers = asyncio.run(ask_all())
    workers.close()
    assert [who for who, _ in answers] == [str(number) for number in range(50)]
    assert all(name.startswith("normfold-") for _, name in answers)


@pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit])
def test_thread_pool_raises_a_tasks_error_in_its_caller_and_keeps_its_thread(kind: type[BaseException]) -> None:
    def die() -> None:
        raise kind("planted")

    async def ask() -> int:
        try:
            await workers.call(die)
        except kind as error:
            assert str(error) == "planted"  # noqa: PT017
        return await workers.call(int, "7")

    workers = ThreadPool(threads=1)
    assert asyncio.run(ask()) == 7
    workers.close()
    assert workers.ended


def test_task_of_a_cancelled_caller_does_not_run() -> None:
    ran: list[str] = []

    async def ask() -> None:
        running, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            running.set()
            assert go_on.wait(timeout=20)

        first = asyncio.create_task(workers.call(wait))
        await asyncio.to_thread(running.wait, 20)
        second = asyncio.create_task(workers.call(ran.append, "second"))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        go_on.set()
        await first
        await workers.call(ran.append, "third")

    workers = ThreadPool(threads=1)
    asyncio.run(ask())
    workers.close()
    assert ran == ["third"]


def test_close_waits_for_running_tasks_and_drops_waiting_ones() -> None:
    running, go_on = threading.Event(), threading.Event()
    ran: list[Any] = []

    def wait() -> None:
        running.set()
        assert go_on.wait(timeout=20)
        ran.append("first")

    async def ask() -> None:
        first = asyncio.create_task(workers.call(wait))
        await asyncio.to_thread(running.wait, 20)
        second = asyncio.create_task(workers.call(ran.append, "second"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(workers.close))
        with pytest.raises(asyncio.CancelledError):
            await second
        go_on.set()
        await closing
        await first

    workers = ThreadPool(threads=1)
    asyncio.run(ask())
    assert ran == ["first"]
    assert workers.ended


def test_close_abandons_a_task_that_hangs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_S", 0.05)
    running, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        running.set()
        go_on.wait()

    async def ask() -> None:
        asking = asyncio.create_task(workers.call(hang))
        await asyncio.to_thread(running.wait, 20)
        asking.cancel()

    workers = ThreadPool(threads=2)
    asyncio.run(ask())
    workers.close()
    assert not workers.ended
    assert "A thread still runs after" in caplog.text
    assert all(thread.daemon for thread in workers._threads)
    go_on.set()

"""The queue: what runs together, what waits, what is dropped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from normfold.service.batching.batch import BatchPolicy, QueuedRequest
from normfold.service.batching.batcher import Batcher
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.errors import (
    ClientDisconnectedError,
    DeadlineError,
    InvalidRequestError,
    QueueFullError,
    RunError,
    UnloadedError,
)
from normfold.service.runtime.session import Cancel


class Network:
    """Doubles its input; notes its runs, and can be made to wait or to fail."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.seen: list[list[float]] = []
        self.cancels: list[Cancel | None] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.entered = threading.Semaphore(0)

    def __call__(self, tensors: Mapping[str, Any], outputs: Sequence[str], cancel: Cancel | None = None) -> list[Any]:
        array = tensors["x"]
        self.rows.append(len(array))
        self.seen.append(array.reshape(len(array), -1)[:, 0].tolist())
        self.cancels.append(cancel)
        self.entered.release()
        assert self.go_on.wait(timeout=20)
        if (array == 13).any():
            raise InvalidRequestError("Thirteen is not taken.")
        return [2 * array if name == "y" else array[:-1] for name in outputs]

    async def wait_for_run(self) -> None:
        """Wait until one more run has begun."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=20)


def job(*values: float, outputs: Sequence[str] = ("y",), timeout_s: float = 20.0, **changes: Any) -> QueuedRequest:
    array = np.array(values, np.float64).reshape(-1, 1)
    fields: dict[str, Any] = {"rows": len(values), "outputs": outputs, "deadline": perf_counter() + timeout_s}
    return QueuedRequest({"x": array}, **fields | changes)


def run(test: Callable[[Network, Batcher], Awaitable[None]], **policy: Any) -> Network:
    """Run a test with a batcher; in a thread unless the policy says inline."""
    network, workers = Network(), ThreadPool(threads=1)
    batcher = Batcher(network, BatchPolicy(**{"max_batch_size": 4, "queue_capacity": 8} | policy), workers)
    try:
        asyncio.run(asyncio.wait_for(test(network, batcher), timeout=30))
    finally:
        network.go_on.set()
        workers.close()
    return network


@pytest.mark.parametrize("inline", [True, False])
def test_what_came_together_runs_together_and_everyone_gets_his_own(inline: bool) -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        results = await asyncio.gather(*(batcher.submit(job(number)) for number in range(6)))
        assert [result["y"].tolist() for result in results] == [[[2.0 * number]] for number in range(6)]

    network = run(test, inline=inline)
    assert sum(network.rows) == 6
    assert max(network.rows) == 4


def test_a_request_of_more_rows_than_a_batch_is_cut_and_put_together() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        large, small = await asyncio.gather(batcher.submit(job(*range(6))), batcher.submit(job(50, 51)))
        assert large["y"].ravel().tolist() == [0, 2, 4, 6, 8, 10]
        assert small["y"].ravel().tolist() == [100, 102]

    assert run(test, inline=True).rows == [4, 4]


@pytest.mark.parametrize("inline", [True, False])
def test_a_batch_is_padded_to_a_warmed_size_and_nobody_sees_it(inline: bool) -> None:
    observed: list[int] = []

    async def test(network: Network, batcher: Batcher) -> None:
        batcher._on_run = lambda rows, _: observed.append(rows)
        results = await asyncio.gather(*map(batcher.submit, (job(1), job(2, 3))))
        assert [result["y"].ravel().tolist() for result in results] == [[2.0], [4.0, 6.0]]
        network.rows.clear()
        assert (await batcher.submit(job(5)))["y"].tolist() == [[10.0]]
        assert network.rows == [1]

    network = run(test, inline=inline, sizes=(1, 4))
    assert network.seen[0] == [1.0, 2.0, 3.0, 0.0]
    assert observed == [3, 1]


def test_a_request_that_is_cut_is_padded_at_its_end_alone() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        result = await batcher.submit(job(*range(1, 8)))
        assert result["y"].ravel().tolist() == [2.0 * number for number in range(1, 8)]

    assert run(test, inline=True, sizes=(1, 2, 4)).seen == [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 0.0]]


def test_rows_that_are_not_independent_are_never_padded() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        assert (await batcher.submit(job(1, 2, 3, rows=None)))["y"].ravel().tolist() == [2.0, 4.0, 6.0]

    assert run(test, inline=True, sizes=(1, 2, 4)).rows == [3]


def test_a_padded_batch_of_a_wrong_number_of_rows_is_still_a_fault() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        with pytest.raises(RunError):
            await batcher.submit(job(1, 2, 3, outputs=("short",)))

    run(test, inline=True, sizes=(4,))


@pytest.mark.parametrize(("rows", "padding"), [(1, 0), (2, 0), (3, 1), (4, 0), (5, 0)])
def test_rows_are_padded_to_the_next_size(rows: int, padding: int) -> None:
    assert BatchPolicy(sizes=(1, 2, 4)).padding(rows) == padding
    assert BatchPolicy().padding(rows) == 0


def test_what_waits_runs_as_soon_as_nothing_runs() -> None:
    async def test(network: Network, batcher: Batcher) -> None:
        network.go_on.clear()
        first = batcher.submit(job(1))
        await network.wait_for_run()
        others = [batcher.submit(job(number)) for number in (2, 3)]
        network.go_on.set()
        await asyncio.gather(first, *others)
        assert batcher.is_idle

    assert run(test).rows == [1, 2]


def test_only_rows_of_one_shape_run_together_and_the_order_is_kept() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        shapes: list[tuple[tuple[int, ...], ...]] = [((1,),), ((2,),), ((1,),)]
        jobs = [job(number, shapes=shape) for number, shape in enumerate(shapes)]
        await asyncio.gather(*map(batcher.submit, jobs))

    assert run(test, inline=True).seen == [[0.0, 2.0], [1.0]]


def test_rows_that_are_not_independent_run_alone() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.submit(job(number, rows=None)) for number in range(3)))

    assert run(test, inline=True).rows == [1, 1, 1]


def test_urgent_requests_go_first() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.submit(job(number, urgent=number == 5)) for number in range(6)))

    assert run(test, inline=True).seen[0][0] == 5.0


def test_one_bad_member_fails_alone() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        jobs = [job(1), job(13), job(2)]
        results = await asyncio.gather(*map(batcher.submit, jobs), return_exceptions=True)
        assert [type(result) for result in results] == [dict, InvalidRequestError, dict]
        assert isinstance(results[2], dict)
        assert results[2]["y"].tolist() == [[4.0]]

    assert run(test, inline=True).rows == [3, 1, 1, 1]


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async def test(network: Network, batcher: Batcher) -> None:
        network.go_on.clear()
        waiting = [batcher.submit(job(0))]
        await network.wait_for_run()
        waiting += [batcher.submit(job(number)) for number in range(8)]
        assert batcher.queued_rows == 8
        with pytest.raises(QueueFullError) as refused:
            batcher.submit(job(9))
        assert refused.value.retry_after_s >= 1
        network.go_on.set()
        await asyncio.gather(*waiting)
        assert batcher.queued_rows == 0

    run(test)


def test_a_request_of_more_rows_than_the_queue_is_taken_when_nothing_waits() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        assert len((await batcher.submit(job(*[1.0] * 20)))["y"]) == 20

    run(test, inline=True)


@pytest.mark.parametrize("running", [True, False])
def test_a_deadline_holds_in_the_queue_and_in_the_run(running: bool) -> None:
    async def test(network: Network, batcher: Batcher) -> None:
        network.go_on.clear()
        first = batcher.submit(job(1, timeout_s=0.05 if running else 20))
        await network.wait_for_run()
        late = first if running else batcher.submit(job(2, timeout_s=0.05))
        with pytest.raises(DeadlineError):
            await late
        assert batcher.queued_rows == 0
        network.go_on.set()
        if not running:
            await first

    network = run(test)
    assert network.rows == [1]


def test_a_deadline_that_has_passed_never_runs() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        with pytest.raises(DeadlineError):
            await batcher.submit(job(1, timeout_s=-1))

    assert run(test, inline=True).rows == []


def test_who_leaves_the_queue_is_dropped_and_harms_nobody() -> None:
    async def test(network: Network, batcher: Batcher) -> None:
        network.go_on.clear()
        first = batcher.submit(job(1))
        await network.wait_for_run()
        leaver = job(2)
        left, stayed = batcher.submit(leaver), batcher.submit(job(3))
        batcher.cancel(leaver)
        with pytest.raises(ClientDisconnectedError):
            await left
        network.go_on.set()
        await asyncio.gather(first, stayed)

    assert run(test).seen == [[1.0], [3.0]]


def test_the_last_to_leave_a_run_stops_it() -> None:
    async def test(network: Network, batcher: Batcher) -> None:
        network.go_on.clear()
        first = batcher.submit(job(0))
        await network.wait_for_run()
        jobs = [job(1), job(2)]
        futures = list(map(batcher.submit, jobs))
        held, network.go_on = network.go_on, threading.Event()  # the second run is held as well
        held.set()
        await first
        await network.wait_for_run()
        cancel = network.cancels[1]
        assert cancel is not None
        batcher.cancel(jobs[0])
        assert not cancel.is_set
        batcher.cancel(jobs[1])
        assert cancel.is_set
        network.go_on.set()
        await asyncio.gather(*futures, return_exceptions=True)

    run(test)


def test_a_batch_that_is_full_does_not_wait_and_one_that_is_not_keeps_deadlines() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        started = perf_counter()
        await asyncio.gather(*(batcher.submit(job(number)) for number in range(4)))
        assert perf_counter() - started < 5
        with pytest.raises(DeadlineError):
            await batcher.submit(job(1, timeout_s=0.05))
        assert perf_counter() - started < 5

    run(test, inline=True, delay_s=10.0)


def test_a_wrong_number_of_rows_is_a_fault_of_the_network() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        with pytest.raises(RunError):
            await batcher.submit(job(1, 2, outputs=("short",)))

    run(test, inline=True)


def test_outputs_that_differ_are_all_computed() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        one, both = job(1), job(2, outputs=("y", "z"))
        results = await asyncio.gather(batcher.submit(one), batcher.submit(both))
        assert [sorted(result) for result in results] == [["y"], ["y", "z"]]

    class Same(Network):
        def __call__(self, tensors: Any, outputs: Any, cancel: Any = None) -> list[Any]:  # noqa: ARG002
            return [tensors["x"] for _ in outputs]

    async def main() -> None:
        await test(Same(), Batcher(Same(), BatchPolicy(inline=True), workers))

    workers = ThreadPool(threads=1)
    asyncio.run(main())
    workers.close()


def test_unloading_ends_what_waits() -> None:
    async def test(network: Network, batcher: Batcher) -> None:
        network.go_on.clear()
        first = batcher.submit(job(1))
        await network.wait_for_run()
        second = batcher.submit(job(2))
        batcher.close()
        for future in (first, second):
            with pytest.raises(UnloadedError):
                await future

    run(test)

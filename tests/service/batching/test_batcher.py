"""The batcher: which requests run together, which wait, which are dropped."""

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
from normfold.service.batching.known_inputs import KnownInputs
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.errors import (
    ClientDisconnectedError,
    DeadlineError,
    FailingTensorsError,
    InvalidRequestError,
    QueueFullError,
    RunError,
    UnloadedError,
)
from normfold.service.runtime.run_options import Cancel


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


def request(*values: float, outputs: Sequence[str] = ("y",), timeout_s: float = 20.0, **changes: Any) -> QueuedRequest:
    array = np.array(values, np.float64).reshape(-1, 1)
    fields: dict[str, Any] = {"rows": len(values), "outputs": outputs, "deadline": perf_counter() + timeout_s}
    return QueuedRequest({"x": array}, **fields | changes)


def run(test: Callable[[Network, Batcher], Awaitable[None]], **policy: Any) -> Network:
    """Run a test with a batcher; in a thread unless the policy says inline."""
    network, thread_pool = Network(), ThreadPool(threads=1)
    batcher = Batcher(network, BatchPolicy(**{"max_batch_size": 4, "queue_capacity": 8} | policy), thread_pool)
    try:
        asyncio.run(asyncio.wait_for(test(network, batcher), timeout=30))
    finally:
        network.go_on.set()
        thread_pool.close()
    return network


@pytest.mark.parametrize("inline", [True, False])
def test_batcher_runs_simultaneous_requests_together_and_splits_the_results(inline: bool) -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        results = await asyncio.gather(*(batcher.submit(request(number)) for number in range(6)))
        assert [result["y"].tolist() for result in results] == [[[2.0 * number]] for number in range(6)]

    network = run(test, inline=inline)
    assert sum(network.rows) == 6
    assert max(network.rows) == 4


def test_batcher_splits_a_request_over_max_batch_size() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        large, small = await asyncio.gather(batcher.submit(request(*range(6))), batcher.submit(request(50, 51)))
        assert large["y"].ravel().tolist() == [0, 2, 4, 6, 8, 10]
        assert small["y"].ravel().tolist() == [100, 102]

    assert run(test, inline=True).rows == [4, 4]


@pytest.mark.parametrize("inline", [True, False])
def test_batch_is_padded_to_a_warm_size_and_padding_is_not_returned(inline: bool) -> None:
    observed: list[int] = []

    async def test(network: Network, batcher: Batcher) -> None:
        batcher._on_run = lambda rows, _: observed.append(rows)
        results = await asyncio.gather(*map(batcher.submit, (request(1), request(2, 3))))
        assert [result["y"].ravel().tolist() for result in results] == [[2.0], [4.0, 6.0]]
        network.rows.clear()
        assert (await batcher.submit(request(5)))["y"].tolist() == [[10.0]]
        assert network.rows == [1]

    network = run(test, inline=inline, sizes=(1, 4))
    assert network.seen[0] == [1.0, 2.0, 3.0, 0.0]
    assert observed == [3, 1]


def test_split_request_is_padded_in_its_last_batch_only() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        result = await batcher.submit(request(*range(1, 8)))
        assert result["y"].ravel().tolist() == [2.0 * number for number in range(1, 8)]

    assert run(test, inline=True, sizes=(1, 2, 4)).seen == [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 0.0]]


def test_rows_that_are_not_independent_are_never_padded() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        results = await batcher.submit(request(1, 2, 3, rows=1, runs_alone=True))
        assert results["y"].ravel().tolist() == [2.0, 4.0, 6.0]

    assert run(test, inline=True, sizes=(1, 2, 4)).rows == [3]


def test_padded_batch_with_a_wrong_number_of_output_rows_fails() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        with pytest.raises(FailingTensorsError):
            await batcher.submit(request(1, 2, 3, outputs=("short",)))

    run(test, inline=True, sizes=(4,))


@pytest.mark.parametrize(("rows", "padding"), [(1, 0), (2, 0), (3, 1), (4, 0), (5, 0)])
def test_rows_are_padded_to_the_next_size(rows: int, padding: int) -> None:
    assert BatchPolicy(sizes=(1, 2, 4)).padding(rows) == padding
    assert BatchPolicy().padding(rows) == 0


def test_queued_requests_run_as_soon_as_nothing_runs() -> None:
    async def test(network: Network, batcher: Batcher) -> None:
        network.go_on.clear()
        first = batcher.submit(request(1))
        await network.wait_for_run()
        others = [batcher.submit(request(number)) for number in (2, 3)]
        network.go_on.set()
        await asyncio.gather(first, *others)
        assert batcher.is_idle

    assert run(test).rows == [1, 2]


def test_batch_holds_rows_of_one_shape_in_order() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        shapes: list[tuple[tuple[int, ...], ...]] = [((1,),), ((2,),), ((1,),)]
        requests = [request(number, shapes=shape) for number, shape in enumerate(shapes)]
        await asyncio.gather(*map(batcher.submit, requests))

    assert run(test, inline=True).seen == [[0.0, 2.0], [1.0]]


def test_rows_that_are_not_independent_run_alone() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.submit(request(number, runs_alone=True)) for number in range(3)))

    assert run(test, inline=True).rows == [1, 1, 1]


def test_urgent_requests_go_first() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.submit(request(number, urgent=number == 5)) for number in range(6)))

    assert run(test, inline=True).seen[0][0] == 5.0


def test_invalid_request_in_a_batch_fails_alone() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        requests = [request(1), request(13), request(2)]
        results = await asyncio.gather(*map(batcher.submit, requests), return_exceptions=True)
        assert [type(result) for result in results] == [dict, InvalidRequestError, dict]
        assert isinstance(results[2], dict)
        assert results[2]["y"].tolist() == [[4.0]]

    assert run(test, inline=True).rows == [3, 1, 1, 1]


def test_full_queue_rejects_requests_with_retry_after() -> None:
    async def test(network: Network, batcher: Batcher) -> None:
        network.go_on.clear()
        waiting = [batcher.submit(request(0))]
        await network.wait_for_run()
        waiting += [batcher.submit(request(number)) for number in range(8)]
        assert batcher.queued_rows == 8
        with pytest.raises(QueueFullError) as rejected:
            batcher.submit(request(9))
        assert rejected.value.retry_after_s >= 1
        network.go_on.set()
        await asyncio.gather(*waiting)
        assert batcher.queued_rows == 0

    run(test)


def test_empty_queue_accepts_a_request_over_its_capacity() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        assert len((await batcher.submit(request(*[1.0] * 20)))["y"]) == 20

    run(test, inline=True)


@pytest.mark.parametrize("running", [True, False])
def test_deadline_ends_queued_and_running_requests(running: bool) -> None:
    async def test(network: Network, batcher: Batcher) -> None:
        network.go_on.clear()
        first = batcher.submit(request(1, timeout_s=0.05 if running else 20))
        await network.wait_for_run()
        late = first if running else batcher.submit(request(2, timeout_s=0.05))
        with pytest.raises(DeadlineError):
            await late
        assert batcher.queued_rows == 0
        network.go_on.set()
        if not running:
            await first

    network = run(test)
    assert network.rows == [1]


def test_request_past_its_deadline_never_runs() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        with pytest.raises(DeadlineError):
            await batcher.submit(request(1, timeout_s=-1))

    assert run(test, inline=True).rows == []


def test_cancelled_request_is_dropped_and_others_run() -> None:
    async def test(network: Network, batcher: Batcher) -> None:
        network.go_on.clear()
        first = batcher.submit(request(1))
        await network.wait_for_run()
        cancelled = request(2)
        lost, kept = batcher.submit(cancelled), batcher.submit(request(3))
        batcher.cancel(cancelled)
        with pytest.raises(ClientDisconnectedError):
            await lost
        network.go_on.set()
        await asyncio.gather(first, kept)

    assert run(test).seen == [[1.0], [3.0]]


def test_run_stops_when_its_last_request_is_cancelled() -> None:
    async def test(network: Network, batcher: Batcher) -> None:
        network.go_on.clear()
        first = batcher.submit(request(0))
        await network.wait_for_run()
        requests = [request(1), request(2)]
        futures = list(map(batcher.submit, requests))
        held, network.go_on = network.go_on, threading.Event()  # the second run is held as well
        held.set()
        await first
        await network.wait_for_run()
        cancel = network.cancels[1]
        assert cancel is not None
        batcher.cancel(requests[0])
        assert not cancel.is_set
        batcher.cancel(requests[1])
        assert cancel.is_set
        network.go_on.set()
        await asyncio.gather(*futures, return_exceptions=True)

    run(test)


def test_full_batch_skips_the_delay_and_a_waiting_batch_keeps_deadlines() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        started = perf_counter()
        await asyncio.gather(*(batcher.submit(request(number)) for number in range(4)))
        assert perf_counter() - started < 5
        with pytest.raises(DeadlineError):
            await batcher.submit(request(1, timeout_s=0.05))
        assert perf_counter() - started < 5

    run(test, inline=True, delay_s=10.0)


def test_wrong_number_of_output_rows_fails_the_run() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        with pytest.raises(FailingTensorsError):
            await batcher.submit(request(1, 2, outputs=("short",)))

    run(test, inline=True)


def test_batch_computes_the_outputs_of_all_its_requests() -> None:
    async def test(_: Network, batcher: Batcher) -> None:
        one, both = request(1), request(2, outputs=("y", "z"))
        results = await asyncio.gather(batcher.submit(one), batcher.submit(both))
        assert [sorted(result) for result in results] == [["y"], ["y", "z"]]

    class Same(Network):
        def __call__(self, tensors: Any, outputs: Any, cancel: Any = None) -> list[Any]:  # noqa: ARG002
            return [tensors["x"] for _ in outputs]

    async def main() -> None:
        await test(Same(), Batcher(Same(), BatchPolicy(inline=True), thread_pool))

    thread_pool = ThreadPool(threads=1)
    asyncio.run(main())
    thread_pool.close()


def test_closed_batcher_fails_queued_and_running_requests() -> None:
    async def test(network: Network, batcher: Batcher) -> None:
        network.go_on.clear()
        first = batcher.submit(request(1))
        await network.wait_for_run()
        second = batcher.submit(request(2))
        batcher.close()
        for future in (first, second):
            with pytest.raises(UnloadedError):
                await future

    run(test)


@pytest.mark.parametrize(
    ("warmed_up", "fails_on", "error"),
    [
        *((True, "all", RunError), (True, "these", FailingTensorsError)),
        *((False, "all", RunError), (False, "these", FailingTensorsError)),
    ],
)
def test_failing_run_is_the_clients_unless_the_network_fails_on_other_tensors_too(
    warmed_up: bool, fails_on: str, error: type[Exception]
) -> None:
    zeros = {"x": np.zeros((1, 1), np.float32)}

    def fail(tensors: Any, outputs: Any, cancel: Any = None) -> list[Any]:  # noqa: ARG001
        if fails_on == "all" or tensors["x"].any():
            raise RunError("planted")
        return [tensors["x"]]

    async def main() -> None:
        policy = BatchPolicy(
            inline=True, known_inputs=KnownInputs(zeros if warmed_up else None, {"x": ("FP32", (-1, 1))})
        )
        with pytest.raises(error, match="fail") as caught:
            await Batcher(fail, policy, thread_pool).submit(request(1))
        assert type(caught.value) is error
        assert caught.value.detail == "planted"  # type: ignore[attr-defined]

    thread_pool = ThreadPool(threads=1)
    asyncio.run(main())
    thread_pool.close()

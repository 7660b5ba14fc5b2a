"""All levels of load, one after the other, in an event loop of their own."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from normfold._bench.connections.connection import Connection, Failure
from normfold._bench.load.level import Level, Measurement, run_level
from normfold._bench.target import Protocol, Target
from normfold.errors import ClientError, UnreachableError


def run_levels(
    target: Target, levels: Sequence[Level], messages: Sequence[bytes], progress: Callable[[str], None]
) -> tuple[list[Measurement], bool]:
    """Send one request, to see that it is answered, and run all levels.

    SIGINT ends the level that runs, and all others.

    Args:
        target: the service.
        levels: to run.
        messages: the requests' bytes.
        progress: called once a second, in words.

    Returns:
        What was measured of each level, and whether it was interrupted.

    Raises:
        UnreachableError: there is no connection for the first request, or no answer in time.
        ClientError: the first request is answered with an error that is no refusal.
    """
    stop = threading.Event()

    def run() -> tuple[list[Measurement], bool]:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_run(target, levels, messages, stop, progress))

    if not _is_loop_running():
        return run()
    with ThreadPoolExecutor(1) as pool:  # a notebook runs a loop in this thread
        running = pool.submit(run)
        try:
            return running.result()
        except KeyboardInterrupt:
            stop.set()
            return running.result()


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":  # uvloop is not for Windows
        return None
    import uvloop

    return uvloop.new_event_loop


async def _run(
    target: Target,
    levels: Sequence[Level],
    messages: Sequence[bytes],
    stop: threading.Event,
    progress: Callable[[str], None],
) -> tuple[list[Measurement], bool]:
    make_connection = _connection_factory(target)
    measured = []
    with _set_on_interrupt(stop):
        await _check(target, make_connection(), messages[0], levels[0].timeout_s)
        for level in levels:
            if stop.is_set():
                break
            progress(f"{level.describe()}: connecting")
            found = await run_level(level, make_connection, messages, stop, progress)
            if found.seconds:
                measured.append(found)
        return measured, stop.is_set()


def _connection_factory(target: Target) -> Callable[[], Connection]:
    if target.protocol is Protocol.GRPC:
        from normfold._bench.connections.grpc_connection import GrpcConnection

        return lambda: GrpcConnection(target)
    from normfold._bench.connections.http_connection import HttpConnection

    context = target.ssl_context()
    return lambda: HttpConnection(target, context)


async def _check(target: Target, connection: Connection, message: bytes, timeout_s: float) -> None:
    """Send one request, and raise what it is answered with, if that is an error."""
    ended: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
    connection.send(message, ended.set_result)
    try:
        failure = await asyncio.wait_for(ended, timeout_s)
    except TimeoutError:
        raise UnreachableError(target.url, f"it did not answer a request within {timeout_s:g} s.") from None
    finally:
        await connection.close()
    if failure is None or failure.is_refusal:
        return
    sentence = failure.sentence or "without a sentence"
    if failure.status == "connection":
        raise UnreachableError(target.url, f"{sentence.rstrip('.')}.")
    raise ClientError(f"The service answers the request with {failure.status}: {sentence}")


@contextmanager
def _set_on_interrupt(stop: threading.Event) -> Iterator[None]:
    """Let SIGINT set an event, in the main thread, where signals arrive."""
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return
    loop, previous = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, previous)

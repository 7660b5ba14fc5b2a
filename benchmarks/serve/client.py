"""A client that checks every response: closed loops over persistent connections, each request with an id of its own.

A response must have the id and the outputs of its request, within rounding, so that lost, duplicate and swapped
responses are found.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import onnxruntime
import orjson

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)")
_POOL = 64
_CANCEL_EVERY = 101
"""Not a divisor of _POOL, so that every request of the pool is cancelled in turn."""
_ROUNDING = 1e-4
"""Tolerance relative to the largest output; a row's outputs differ by less between batch sizes."""


@dataclass(frozen=True)
class CheckedRequest:
    """A request with random rows, and the network's outputs."""

    tail: bytes
    """JSON of the request after its id."""
    expected: np.ndarray
    input_name: str
    rows: np.ndarray


@dataclass
class ClientResult:
    """Times of each request and response (perf_counter), statuses, and the numbers of wrong and of cancelled ones."""

    times: list[tuple[float, float]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    cancelled: int = 0

    @property
    def failed(self) -> int:
        """Number of requests with another status than 200, or a wrong response."""
        return self.wrong + self.statuses.total() - self.statuses[200]


def make_checked_requests(model: Path, seed: int = 0, max_rows: int = 3) -> list[CheckedRequest]:
    """Return a pool of requests, of 1 to `max_rows` rows, to a network of one input and one output."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (value,), rng = session.get_inputs(), np.random.default_rng(seed)
    pool = []
    for index in range(_POOL):
        rows = rng.standard_normal([1 + index % max_rows, *value.shape[1:]]).astype(np.float32)
        entry = {"name": value.name, "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
        (expected,) = session.run(None, {value.name: rows})
        pool.append(CheckedRequest(orjson.dumps({"inputs": [entry]})[1:], expected.ravel(), value.name, rows))
    return pool


async def send_on_connection(
    port: int,
    path: str,
    pool: list[CheckedRequest],
    seen: ClientResult,
    ids: count[int],
    stop: asyncio.Event,
    max_requests: int,
    cancels: bool = False,
) -> None:
    """Send requests one after the other on one connection, until `stop` is set or `ids` reaches `max_requests`.

    With `cancels`, the connection is closed after some requests, before they are answered, and another is opened.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while not stop.is_set() and (number := next(ids)) < max_requests:
        request = pool[number % len(pool)]
        body = b'{"id":"%d",%b' % (number, request.tail)
        began = time.perf_counter()
        writer.write(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body))
        if cancels and is_cancelled(number):
            await asyncio.sleep(0)
            writer.close()
            seen.cancelled += 1
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            continue
        head = await reader.readuntil(b"\r\n\r\n")
        response = await reader.readexactly(int(_LENGTH.search(head)[1]))  # type: ignore[index]  # always there
        seen.times.append((began, time.perf_counter()))
        status = int(head[9:12])
        seen.statuses[status] += 1
        if status == 200 and not is_correct(response, number, request):
            seen.wrong += 1
    writer.close()


def is_correct(response: bytes, number: int, request: CheckedRequest) -> bool:
    """Return whether a response is the right one to a request."""
    record = orjson.loads(response)
    return record["id"] == str(number) and is_near(np.array(record["outputs"][0]["data"], np.float32), request)


def is_near(found: np.ndarray, request: CheckedRequest) -> bool:
    """Return whether values are the outputs of a request, within rounding."""
    if found.shape != request.expected.shape:
        return False
    return bool(np.abs(found - request.expected).max() <= _ROUNDING * np.abs(request.expected).max())


def is_cancelled(number: int) -> bool:
    """Return whether the request of a number is one of those to cancel."""
    return number % _CANCEL_EVERY == _CANCEL_EVERY - 1

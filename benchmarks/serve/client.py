"""A client that checks every answer: closed loops over kept connections, each request with an id of its own.

An answer must carry its request's id and its request's numbers, within rounding; so none is lost, doubled or mixed up.
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
_ROUNDING = 1e-4
"""Of the answer's largest value: a network's rows differ by so little between sizes of batches."""


@dataclass(frozen=True)
class Question:
    """Rows of random numbers, as the JSON that asks for them behind the id, and what the network makes of them."""

    tail: bytes
    expected: np.ndarray


@dataclass
class Seen:
    """What a client saw: when each request was sent and answered (perf_counter), statuses, answers that were wrong."""

    times: list[tuple[float, float]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0

    @property
    def failed(self) -> int:
        """Requests that were not answered 200, and answered right."""
        return self.wrong + self.statuses.total() - self.statuses[200]


def questions(model: Path, seed: int = 0, most_rows: int = 3) -> list[Question]:
    """Return a pool of questions to a network of one input and one output."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (port,), rng = session.get_inputs(), np.random.default_rng(seed)
    pool = []
    for index in range(_POOL):
        rows = rng.standard_normal([1 + index % most_rows, *port.shape[1:]]).astype(np.float32)
        entry = {"name": port.name, "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
        (expected,) = session.run(None, {port.name: rows})
        pool.append(Question(orjson.dumps({"inputs": [entry]})[1:], expected.ravel()))
    return pool


async def ask_on(
    port: int, path: str, pool: list[Question], seen: Seen, ids: count[int], stop: asyncio.Event, most: int
) -> None:
    """Ask one question after the other on one connection, until told to stop or `most` were asked by all together."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while not stop.is_set() and (number := next(ids)) < most:
        question = pool[number % len(pool)]
        body = b'{"id":"%d",%b' % (number, question.tail)
        began = time.perf_counter()
        writer.write(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body))
        head = await reader.readuntil(b"\r\n\r\n")
        answer = await reader.readexactly(int(_LENGTH.search(head)[1]))  # type: ignore[index]  # always there
        seen.times.append((began, time.perf_counter()))
        status = int(head[9:12])
        seen.statuses[status] += 1
        if status == 200 and not is_right(answer, number, question):
            seen.wrong += 1
    writer.close()


def is_right(answer: bytes, number: int, question: Question) -> bool:
    """Whether an answer is the one to this question."""
    record = orjson.loads(answer)
    found = np.array(record["outputs"][0]["data"], np.float32)
    if record["id"] != str(number) or found.shape != question.expected.shape:
        return False
    return bool(np.abs(found - question.expected).max() <= _ROUNDING * np.abs(question.expected).max())

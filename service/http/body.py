"""Bodies of requests: read within the limit, and laid so that binary tensors in them are aligned."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from starlette.requests import Request
from starlette.types import Receive

from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.codec.compression import decompress, read_encoding
from normfold.service.codec.headers import Headers, declared_length
from normfold.service.errors import BodyTooLargeError, ClientDisconnectedError
from normfold.service.http.asgi_cycle import MAX_UNREAD_BYTES, AsgiCycle
from normfold.service.http.zero_copy_body import MIN_ZERO_COPY_BYTES
from normfold.service.inference.byte_budget import BODY_RESERVATION_KEY, BodyReservation, Reserve

DRAIN_TIMEOUT_S = 2.0
"""Seconds that the rest of a body is read and dropped after its request was rejected as too large."""

_ALIGNMENT = 16


async def read_body(
    cycle: AsgiCycle, headers: Headers, max_bytes: int, json_length: int, reserve: Reserve
) -> memoryview:
    """Read a body past ASGI, whose messages would copy each piece of it three times.

    Args:
        cycle: the request's.
        headers: the request's.
        max_bytes: limit on the body.
        json_length: bytes of JSON before binary tensors; what follows them is aligned.
        reserve: called with the bytes that have arrived, before they are kept.

    Raises:
        BodyTooLargeError: more than `max_bytes` have arrived; the rest is not read.
        BodyBudgetError: `reserve` refused them.
        ClientDisconnectedError: the client disconnected before the end of the body.
    """
    if b"content-length" in headers and b"transfer-encoding" not in headers:
        length = declared_length(headers) or 0
        if length <= max_bytes and length - cycle.unread_bytes >= MIN_ZERO_COPY_BYTES:
            return await receive_in_place(cycle, length, -json_length % _ALIGNMENT)
    pieces: list[bytes] = []
    nbytes = 0
    cycle.max_unread_bytes = max_bytes
    while True:
        nbytes += cycle.unread_bytes
        pieces += cycle.take_body()
        if nbytes > max_bytes or not cycle.more_body:
            break
        reserve(nbytes)
        await _wait_for_more(cycle)
    cycle.max_unread_bytes = MAX_UNREAD_BYTES
    reserve(min(nbytes, max_bytes))
    return _join(pieces, max_bytes, json_length)


async def receive_in_place(cycle: AsgiCycle, length: int, padding: int) -> memoryview:
    """Read the rest of a body from the socket into the buffer in which it stays.

    Args:
        cycle: the request's; it has what the parser has seen of the body.
        length: of the whole body, in bytes.
        padding: bytes to leave free before it.

    Raises:
        ClientDisconnectedError: the client disconnected before the end of the body.
    """
    body = np.empty(padding + length, np.uint8).data[padding:]  # not zeroed, unlike a bytearray
    begun = b"".join(cycle.take_body())
    body[: len(begun)] = begun
    cycle.connection.receive_into(body[len(begun) :])
    while cycle.more_body:
        await _wait_for_more(cycle)
    return body


async def read_asgi_body(receive: Receive, max_bytes: int, json_length: int, reserve: Reserve) -> memoryview:
    """Read a body through ASGI's messages, as `read_body`."""
    pieces: list[bytes] = []
    nbytes, more_body = 0, True
    while more_body and nbytes <= max_bytes:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        pieces.append(message.get("body", b""))
        nbytes += len(pieces[-1])
        reserve(min(nbytes, max_bytes))
        more_body = message.get("more_body", False)
    return _join(pieces, max_bytes, json_length)


async def read_plain_body(request: Request, thread_pool: ThreadPool, max_bytes: int) -> memoryview:
    """Read and decompress the body of a request that the framework serves.

    Args:
        request: the framework's.
        thread_pool: decompresses a large body.
        max_bytes: limit on the decompressed body.

    Raises:
        ContentEncodingError: its Content-Encoding is not supported.
        InvalidRequestError: the bytes are not in that encoding.
        BodyTooLargeError: it is over the limit.
        BodyBudgetError: it does not fit beside other large bodies.
    """
    encoding = read_encoding(dict(request.scope["headers"]))
    body = memoryview(await request.body())
    if encoding is None:
        return body
    reservation: BodyReservation = request.scope[BODY_RESERVATION_KEY]
    return await thread_pool.parse(4 * len(body), decompress, body, encoding, max_bytes, reservation.resize)


async def drain(receive: Receive) -> None:
    """Read and drop the rest of a body, for at most DRAIN_TIMEOUT_S.

    A connection that is closed while bytes are unread is reset, and the client may never see its response.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            while (await receive()).get("more_body", False):
                pass


async def _wait_for_more(cycle: AsgiCycle) -> None:
    if not cycle.is_disconnected:
        cycle.request_body()
        await cycle.changed()
    if cycle.is_disconnected:
        raise ClientDisconnectedError


def _join(pieces: Sequence[bytes], max_bytes: int, json_length: int) -> memoryview:
    padding = -json_length % _ALIGNMENT
    body = pieces[0] if len(pieces) == 1 and not padding else b"".join([bytes(padding), *pieces])
    if len(body) - padding > max_bytes:
        raise BodyTooLargeError(max_bytes)
    return memoryview(body)[padding:]

"""Bodies: read within the limit, decompressed within the same limit, compressed as the client accepts."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from normfold.service.codec.binary_tensors import Piece
from normfold.service.errors import BodyTooLargeError, InvalidRequestError
from normfold.service.http.connection import read_directly, read_pieces

SMALLEST_COMPRESSED = 1024
"""Bytes: smaller answers are sent as they are."""

DRAIN_TIMEOUT_S = 2.0
"""How long, after a body was refused as too large, the rest of it is read and thrown away."""

_ALIGNMENT = 16
_WINDOW = {b"gzip": 31, b"deflate": 15}
"""zlib's window bits: deflate in HTTP is zlib's own format."""

Headers = dict[bytes, bytes]


def check_declared(headers: Headers, limit: int) -> None:
    """Refuse a body by the length that it declares, before a byte of it is read.

    Raises:
        BodyTooLargeError: over the limit.
    """
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise BodyTooLargeError(limit)


async def read_body(scope: Scope, receive: Receive, limit: int, front: int = 0) -> memoryview:
    """Read a request's body.

    Args:
        scope: ASGI's.
        receive: ASGI's.
        limit: in bytes.
        front: bytes of JSON at the front; the body is laid so that what follows them is aligned as numbers should be.

    Raises:
        BodyTooLargeError: more than the limit has come; the rest is not read.
        ClientDisconnect: the client left before the end.
    """
    padding = -front % _ALIGNMENT
    if (direct := await read_directly(scope, limit, padding)) is not None:
        return direct
    pieces = await read_pieces(scope, limit)
    if pieces is None:
        pieces = await _receive_pieces(receive, limit)
    body = pieces[0] if len(pieces) == 1 and not padding else b"".join([bytes(padding), *pieces])
    if len(body) - padding > limit:
        raise BodyTooLargeError(limit)
    return memoryview(body)[padding:]


async def _receive_pieces(receive: Receive, limit: int) -> list[bytes]:
    pieces, size, more = [], 0, True
    while more and size <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        more = message.get("more_body", False)
    return pieces


async def drain(receive: Receive) -> None:
    """Throw away what is left of a body, for as long as DRAIN_TIMEOUT_S.

    A connection that is closed on unread bytes is reset, and the client may never see its answer.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            while (await receive()).get("more_body", False):
                pass


def decompress(body: memoryview, encoding: bytes, limit: int) -> memoryview:
    """Decompress a body.

    Raises:
        InvalidRequestError: an encoding other than gzip and deflate, or bytes that are not of that encoding.
        BodyTooLargeError: it would be larger than the limit; no more than that is ever made.
    """
    encoding = encoding.strip().lower()
    if encoding in (b"", b"identity"):
        return body
    if encoding not in _WINDOW:
        raise InvalidRequestError(
            f"The Content-Encoding {encoding.decode('latin-1')!r} is not known; gzip and deflate are."
        )
    machine = zlib.decompressobj(_WINDOW[encoding])
    try:
        plain = machine.decompress(body, limit + 1)
    except zlib.error:
        raise InvalidRequestError(f"The body is not {encoding.decode()}, as its Content-Encoding says.") from None
    if len(plain) > limit:
        raise BodyTooLargeError(limit)
    if not machine.eof or machine.unused_data:
        raise InvalidRequestError(f"The body is cut short, or goes on behind its {encoding.decode()} end.")
    return memoryview(plain)


def accepted_encoding(header: bytes) -> bytes | None:
    """Return gzip or deflate if the client accepts it, gzip rather; None for neither."""
    accepted = {}
    for part in header.lower().split(b","):
        name, _, quality = part.partition(b";")
        accepted[name.strip()] = quality.replace(b" ", b"") not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
    return next((name for name in _WINDOW if accepted.get(name)), None)


def compress(pieces: Sequence[Piece], encoding: bytes) -> bytes:
    """Compress a body, quickly rather than well."""
    machine = zlib.compressobj(1, wbits=_WINDOW[encoding])
    return b"".join([*map(machine.compress, pieces), machine.flush()])

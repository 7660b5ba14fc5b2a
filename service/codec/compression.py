"""Content codings of bodies: gzip and deflate, decompressed within the limit of a body and the budget of all bodies."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

from normfold.service.codec.binary_tensors import Piece
from normfold.service.codec.headers import Headers
from normfold.service.errors import BodyTooLargeError, ContentEncodingError, InvalidRequestError

MIN_COMPRESSED_BYTES = 1024
"""A smaller response is sent uncompressed."""

MAX_MEMBERS = 10_000
"""Limit on the members of a gzip body: each costs about a microsecond, and an empty one is 20 bytes long."""

_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}
"""zlib's window bits for each content coding; deflate in HTTP is zlib's format (RFC 9110, section 8.4.1.2)."""

_CODINGS = {b"gzip": b"gzip", b"x-gzip": b"gzip", b"deflate": b"deflate"}
"""Names of content codings; x-gzip is gzip (RFC 9110, section 8.4.1.3)."""

_ZERO_QUALITY = (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")

_MIN_READ_BYTES, _MAX_READ_BYTES = 1024, 64 * 1024
"""Bytes that are decompressed at once: few where a member begins, since those after its end are copied."""

_WRITE_BYTES = 2**20
"""Bytes to decompress to before they are reserved."""


def read_encoding(headers: Headers) -> bytes | None:
    """Return the content coding of a request's body, `gzip` or `deflate`; None if it is not compressed.

    Raises:
        ContentEncodingError: it is another one, or there are several.
    """
    given = headers.get(b"content-encoding")
    if given is None:
        return None
    names = [name for part in given.lower().split(b",") if (name := part.strip()) not in (b"", b"identity")]
    if not names:
        return None
    if len(names) > 1 or names[0] not in _CODINGS:
        raise ContentEncodingError(given.decode("latin-1"))
    return _CODINGS[names[0]]


def decompress(body: memoryview, encoding: bytes, max_bytes: int, reserve: Callable[[int], None]) -> memoryview:
    """Decompress a body; one of gzip may have several members (RFC 1952, section 2.2).

    Args:
        body: as received.
        encoding: as `read_encoding` returns it.
        max_bytes: limit on the decompressed size; decompression stops there.
        reserve: called with the bytes that the body has, compressed and decompressed, as they grow, and with those of
            the decompressed body alone at the end; what it raises is raised.

    Raises:
        InvalidRequestError: the bytes are not in that encoding.
        BodyTooLargeError: the decompressed body is over `max_bytes`.
    """
    plain, at, members = bytearray(), 0, 0
    while True:
        members += 1
        if members > MAX_MEMBERS:
            raise InvalidRequestError(f"The body has more than {MAX_MEMBERS:,} gzip members.")
        at += _decompress_member(body[at:], encoding, plain, max_bytes, lambda size: reserve(body.nbytes + size))
        if at == body.nbytes:
            reserve(len(plain))
            return memoryview(plain)
        if encoding != b"gzip":
            raise InvalidRequestError(f"The body has bytes after the end of its {encoding.decode()} data.")


def _decompress_member(
    body: memoryview, encoding: bytes, plain: bytearray, max_bytes: int, reserve: Callable[[int], None]
) -> int:
    """Decompress one member, and add it to `plain`; return the bytes that it takes of the body."""
    decompressor, at, step = zlib.decompressobj(_WINDOW_BITS[encoding]), 0, _MIN_READ_BYTES
    while not decompressor.eof:
        waiting: bytes | memoryview = decompressor.unconsumed_tail
        if not waiting:
            waiting = body[at : at + step]
            at, step = at + len(waiting), min(2 * step, _MAX_READ_BYTES)
        before = len(plain)
        try:
            plain += decompressor.decompress(waiting, min(_WRITE_BYTES, max_bytes + 1 - before))
        except zlib.error:
            raise InvalidRequestError(f"The body is not {encoding.decode()}, as its Content-Encoding says.") from None
        if len(plain) > max_bytes:
            raise BodyTooLargeError(max_bytes)
        if not waiting and len(plain) == before and not decompressor.eof:
            raise InvalidRequestError(f"The body is truncated: it ends within its {encoding.decode()} data.")
        reserve(len(plain))
    return at - len(decompressor.unused_data)


def accepted_encoding(accept_encoding: bytes) -> bytes | None:
    """Return gzip, or else deflate, if an Accept-Encoding header accepts it; None if it accepts neither."""
    accepted = {}
    for part in accept_encoding.lower().split(b","):
        name, _, quality = part.partition(b";")
        accepted[_CODINGS.get(name.strip(), b"")] = quality.replace(b" ", b"") not in _ZERO_QUALITY
    return next((name for name in _WINDOW_BITS if accepted.get(name)), None)


def choose_encoding(headers: Headers, nbytes: int) -> bytes | None:
    """Return the content coding of a response of `nbytes` bytes; None if it is sent uncompressed."""
    accepted = headers.get(b"accept-encoding")
    return accepted_encoding(accepted) if accepted is not None and nbytes >= MIN_COMPRESSED_BYTES else None


def compress(pieces: Sequence[Piece], encoding: bytes) -> bytes:
    """Compress a body at zlib's fastest level."""
    compressor = zlib.compressobj(1, wbits=_WINDOW_BITS[encoding])
    return b"".join([*map(compressor.compress, pieces), compressor.flush()])

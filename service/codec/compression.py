"""Content codings of bodies: gzip and deflate, decompressed within the limit of a body."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from normfold.service.codec.binary_tensors import Piece
from normfold.service.codec.headers import Headers
from normfold.service.errors import BodyTooLargeError, InvalidRequestError

MIN_COMPRESSED_BYTES = 1024
"""A smaller response is sent uncompressed."""

_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}
"""zlib's window bits for each content coding; deflate in HTTP is zlib's format (RFC 9110, section 8.4.1.2)."""

_ZERO_QUALITY = (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")


def decompress(body: memoryview, encoding: bytes, max_bytes: int) -> memoryview:
    """Decompress a body.

    Args:
        body: as received.
        encoding: the request's Content-Encoding.
        max_bytes: limit on the decompressed size; decompression stops there.

    Raises:
        InvalidRequestError: the encoding is neither gzip nor deflate, or the bytes are not in that encoding.
        BodyTooLargeError: the decompressed body is over `max_bytes`.
    """
    encoding = encoding.strip().lower()
    if encoding in (b"", b"identity"):
        return body
    if encoding not in _WINDOW_BITS:
        raise InvalidRequestError(
            f"The Content-Encoding {encoding.decode('latin-1')!r} is not supported; use gzip or deflate."
        )
    decompressor = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        plain = decompressor.decompress(body, max_bytes + 1)
    except zlib.error:
        raise InvalidRequestError(f"The body is not {encoding.decode()}, as its Content-Encoding says.") from None
    if len(plain) > max_bytes:
        raise BodyTooLargeError(max_bytes)
    if not decompressor.eof or decompressor.unused_data:
        raise InvalidRequestError(f"The body is truncated, or has bytes after the end of its {encoding.decode()} data.")
    return memoryview(plain)


def accepted_encoding(accept_encoding: bytes) -> bytes | None:
    """Return gzip, or else deflate, if an Accept-Encoding header accepts it; None if it accepts neither."""
    accepted = {}
    for part in accept_encoding.lower().split(b","):
        name, _, quality = part.partition(b";")
        accepted[name.strip()] = quality.replace(b" ", b"") not in _ZERO_QUALITY
    return next((name for name in _WINDOW_BITS if accepted.get(name)), None)


def choose_encoding(headers: Headers, nbytes: int) -> bytes | None:
    """Return the content coding of a response of `nbytes` bytes; None if it is sent uncompressed."""
    accepted = headers.get(b"accept-encoding")
    return accepted_encoding(accepted) if accepted is not None and nbytes >= MIN_COMPRESSED_BYTES else None


def compress(pieces: Sequence[Piece], encoding: bytes) -> bytes:
    """Compress a body at zlib's fastest level."""
    compressor = zlib.compressobj(1, wbits=_WINDOW_BITS[encoding])
    return b"".join([*map(compressor.compress, pieces), compressor.flush()])

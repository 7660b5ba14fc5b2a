"""Content codings of request bodies: names, members, limits, what is reserved on the way."""

from __future__ import annotations

import gzip
import zlib

import pytest

from normfold.service.codec.compression import MAX_MEMBERS, decompress, read_encoding
from normfold.service.errors import BodyTooLargeError, ContentEncodingError, InvalidRequestError

MB = 2**20


def unpack(body: bytes, encoding: bytes = b"gzip", max_bytes: int = 64 * MB) -> bytes:
    """Return the decompressed body."""
    return bytes(decompress(memoryview(body), encoding, max_bytes, lambda _: None))


@pytest.mark.parametrize(
    ("given", "encoding"),
    [
        (b"gzip", b"gzip"),
        (b"X-GZip", b"gzip"),
        (b" deflate ", b"deflate"),
        (b"identity", None),
        (b"", None),
        (b"identity, gzip", b"gzip"),
    ],
)
def test_content_encoding_has_several_names(given: bytes, encoding: bytes | None) -> None:
    assert read_encoding({b"content-encoding": given}) == encoding
    assert read_encoding({}) is None


@pytest.mark.parametrize("given", [b"br", b"zstd", b"compress", b"gzip, gzip", b"deflate, gzip", b"x-deflate"])
def test_content_encoding_that_is_not_supported_is_refused(given: bytes) -> None:
    with pytest.raises(ContentEncodingError, match="gzip or deflate"):
        read_encoding({b"content-encoding": given})


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(0,), (1,), (5, 0, 7), (3 * MB, 10, 2 * MB), (100_000,) * 20])
def test_gzip_body_may_have_several_members(sizes: tuple[int, ...]) -> None:
    parts = [bytes(index % 251 for index in range(size)) for size in sizes]

    assert unpack(b"".join(map(gzip.compress, parts))) == b"".join(parts)


def test_gzip_body_may_have_a_limited_number_of_members() -> None:
    empty = gzip.compress(b"")

    assert unpack(empty * MAX_MEMBERS) == b""
    with pytest.raises(InvalidRequestError, match="10,000 gzip members"):
        unpack(empty * (MAX_MEMBERS + 1))


@pytest.mark.parametrize(("size", "after"), [(1, b"\0"), (1, b"garbage"), (MB, b"{}" * MB)], ids=["0", "text", "JSON"])
def test_gzip_body_with_other_bytes_after_its_members_is_rejected(size: int, after: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        unpack(gzip.compress(b"x" * size) + after)


def test_deflate_body_has_one_stream_only() -> None:
    one = zlib.compress(b"x" * 10_000)

    assert unpack(one, b"deflate") == b"x" * 10_000
    with pytest.raises(InvalidRequestError, match="after the end of its deflate data"):
        unpack(one + one, b"deflate")


@pytest.mark.parametrize("cut", [0, 1, 10, -1, -8, -9])
def test_cut_off_body_is_rejected(cut: int) -> None:
    with pytest.raises(InvalidRequestError, match="is truncated"):
        unpack(gzip.compress(bytes(range(256)) * 400)[:cut])


@pytest.mark.parametrize("members", [1, 2])
def test_limit_on_a_body_holds_for_all_members_together(members: int) -> None:
    body = gzip.compress(b"x" * (2 // members) * MB) * members
    assert len(unpack(body, max_bytes=2 * MB)) == 2 * MB
    with pytest.raises(BodyTooLargeError):
        unpack(body, max_bytes=2 * MB - 1)


def test_decompression_reserves_what_it_has_and_stops_where_that_is_refused() -> None:
    body, reserved = gzip.compress(b"x" * 10 * MB), []

    decompress(memoryview(body), b"gzip", 64 * MB, reserved.append)

    assert reserved[:-1] == sorted(reserved[:-1])
    assert max(later - before for before, later in zip([0, *reserved], reserved, strict=False)) <= 2 * MB
    assert reserved[-2:] == [len(body) + 10 * MB, 10 * MB]

    def refuse(nbytes: int) -> None:
        if nbytes > 5 * MB:
            raise MemoryError(nbytes)

    with pytest.raises(MemoryError) as caught:
        decompress(memoryview(body), b"gzip", 64 * MB, refuse)
    assert caught.value.args[0] <= 6 * MB

"""Protobuf's wire format, as far as tensors are kept out of messages: a message is its fields one after another.

    tag      varint: number of the field × 8 + wire type (0 varint, 1 eight bytes, 2 a length and bytes, 5 four bytes)
    value    as the wire type says

protobuf copies bytes twice, into its own memory and into each `bytes` object that is read. So the raw tensors of a
large request are cut out of the message that was received, and those of a response are joined to the other fields.

Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

_MAX_FIELDS = 1024
"""A message with more fields is left to protobuf: cutting costs about a microsecond a field."""

_FIXED_SIZES = {1: 8, 5: 4}
_LENGTH_DELIMITED = 2


def encode_varint(value: int) -> bytes:
    """Return a number as a varint: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def field_head(number: int, nbytes: int) -> bytes:
    """Return what stands before the `nbytes` bytes of a field of text, bytes or a message."""
    return encode_varint(number << 3 | _LENGTH_DELIMITED) + encode_varint(nbytes)


def cut_out(message: bytes, number: int) -> tuple[bytes, list[memoryview]] | None:
    """Separate a repeated field of bytes from a message.

    Args:
        message: serialized.
        number: of the field.

    Returns:
        The message without the field, and the field's values, not copied; None if the message is malformed or has more
        than `_MAX_FIELDS` fields.
    """
    view, at, end = memoryview(message), 0, len(message)
    others: list[memoryview] = []
    values: list[memoryview] = []
    for _ in range(_MAX_FIELDS):
        if at == end:
            return b"".join(others), values
        start = at
        tag, at = _read_varint(message, at)
        length = _FIXED_SIZES.get(tag & 7, 0)
        if tag & 7 == _LENGTH_DELIMITED:
            length, at = _read_varint(message, at)
        elif tag & 7 == 0:
            _, at = _read_varint(message, at)
        elif not length:  # a group, or no wire type
            return None
        stop = at + length
        if at < 0 or stop > end:
            return None
        if tag == number << 3 | _LENGTH_DELIMITED:
            values.append(view[at:stop])
        else:
            others.append(view[start:stop])
        at = stop
    return None


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the varint at an index, and the index after it; that is -1 if there is none of at most 64 bits."""
    value = bits = 0
    while 0 <= at < len(data) and bits < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << bits
        if byte < 0x80:
            return value, at
        bits += 7
    return 0, -1

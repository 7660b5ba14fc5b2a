"""Headers of a request that describe its body: length, encoding, the length of the JSON before binary tensors."""

from __future__ import annotations

from normfold.service.errors import BodyTooLargeError, InvalidRequestError

Headers = dict[bytes, bytes]
"""Header names in lower case to values; of a header given twice, the last value."""

HeaderFields = list[tuple[bytes, bytes]]
"""Headers of a response, in order."""

JSON_LENGTH_HEADER = b"inference-header-content-length"
"""The binary tensor extension's header: bytes of the JSON before the tensors."""


def declared_length(headers: Headers) -> int | None:
    """Return the Content-Length of a request, 0 without one; None if it is not a decimal number."""
    declared = headers.get(b"content-length", b"0")
    if len(declared) > 20:  # Python converts no more than some thousands of digits
        declared = declared.lstrip(b"0")[:20] or b"0"
    return int(declared) if declared.isdigit() else None


def check_declared_length(headers: Headers, max_bytes: int) -> None:
    """Check the Content-Length of a request before its body is read.

    Raises:
        BodyTooLargeError: the length is over `max_bytes`.
    """
    if (declared_length(headers) or 0) > max_bytes:
        raise BodyTooLargeError(max_bytes)


def read_json_length(headers: Headers) -> int | None:
    """Return the length of the JSON before the tensors, in bytes; None if the whole body is JSON.

    Raises:
        InvalidRequestError: the header is not a length.
    """
    text = headers.get(JSON_LENGTH_HEADER)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        raise InvalidRequestError(
            f"The header Inference-Header-Content-Length is {text.decode('latin-1')!r}, not a length."
        )
    return int(text)

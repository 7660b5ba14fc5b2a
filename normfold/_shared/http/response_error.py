"""The error that a response of a service is."""

from __future__ import annotations

import orjson

from normfold._shared.http.connection_pool import Response
from normfold.errors import ResponseError


def to_response_error(response: Response) -> ResponseError:
    """Return the error that a response is, in the service's own sentence where it has one."""
    sentence = (
        error_sentence(response.body) or f"The service answered with status {response.status}, and without a sentence."
    )
    after = response.headers.get("Retry-After", "")
    wait_s = float(after) if after.isascii() and after.isdecimal() else None
    return ResponseError(sentence, response.status, wait_s, response.headers.get("X-Request-Id"))


def error_sentence(body: bytes) -> str | None:
    """Return the sentence of a body {"error": sentence}; None if it is something else."""
    try:
        return str(orjson.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return None

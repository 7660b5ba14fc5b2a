"""The path prefix under which a reverse proxy publishes the service, such as /ml."""

from __future__ import annotations

import re

_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?")


def check_prefix(text: str) -> str:
    """Return a prefix without the slash at its end; empty for `/` and for an empty text.

    It stands in links and in Location headers, so it is a plain path: no escape, and nothing that a browser would take
    for a host (`//`) or resolve (`..`).

    Raises:
        ValueError: the text is not such a path.
    """
    if not _PREFIX.fullmatch(text) or ".." in text or "." in text.split("/"):
        raise ValueError(
            f"{text[:100]!r} is not a path like /ml: a slash, then letters, digits and . _ ~ - /, without '//' and '..'"
        )
    return text.rstrip("/")


def is_under(path: str, prefix: str) -> bool:
    """Return whether a path is the prefix, or lies below it."""
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/")

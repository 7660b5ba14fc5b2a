"""Who may pass: what each path is for, and whether the key that a request brings is for that.

A path is judged as the router sees it, decoded once and otherwise as it came, and by one table. What the table does not
know is refused, whatever the router thinks of it: without a key as everything is, with one as a path that is not there.
"""

from __future__ import annotations

import re
from math import ceil
from typing import Literal

from normfold.service.auth.key_store import KeyStore
from normfold.service.auth.keys import Scope
from normfold.service.auth.rate_limit import RateLimiter
from normfold.service.codec.headers import Headers
from normfold.service.errors import RateError, RequestError, ScopeError, UnauthenticatedError, UnknownPathError
from normfold.service.observability.request_trace import RequestTrace

RequiredScope = Scope | Literal["nothing"]

_VERSIONED = r"[^/]+(/versions/[^/]+)?"

REQUIRED_SCOPES: tuple[tuple[re.Pattern[str], RequiredScope], ...] = (
    (re.compile(r"/|/docs|/openapi\.json|/v2/health/(live|ready)"), "nothing"),
    (re.compile(rf"/metrics|/v2/models/stats|/v2/models/{_VERSIONED}/(stats|shift)"), "metrics"),
    (re.compile(r"/v2/repository/models/[^/]+/(load|unload)"), "admin"),
    (re.compile(rf"/v2/models/{_VERSIONED}/samples"), "admin"),
    (re.compile(rf"/v1/models|/v1/models/{_VERSIONED}:(predict|classify)"), "infer"),
    (re.compile(rf"/v2|/v2/repository/index|/v2/models/{_VERSIONED}(/infer|/ready|/config)?"), "infer"),
)
"""What a path needs: the first that matches all of it. Every route has its place here; a test holds that."""


def required_scope(path: str) -> RequiredScope | None:
    """Return what a path needs; None if it is none of ours."""
    for pattern, need in REQUIRED_SCOPES:
        if pattern.fullmatch(path):
            return need
    return None


class Authorizer:
    """Decides, from a request's path and headers alone, whether it may pass."""

    def __init__(self, keyring: KeyStore, limiter: RateLimiter) -> None:
        self._keyring, self._limiter = keyring, limiter

    def refusal(self, path: str, headers: Headers, phases: RequestTrace) -> RequestError | None:
        """Return why a request may not pass, or None; its key is noted for the access log."""
        need = required_scope(path)
        if need == "nothing":
            return None
        key, opens = self._keyring.find(_presented(headers))
        phases.key = key
        if key is None or not opens:
            return UnauthenticatedError()
        if need is None:
            return UnknownPathError(path)
        if need not in key.scopes:
            return ScopeError(need)
        if key.rate is not None and (wait_s := self._limiter.take(key.id, key.rate, key.most_at_once)):
            return RateError(max(1, ceil(wait_s)))
        return None


def _presented(headers: Headers) -> bytes:
    """Return the key that a request brings; nothing if it brings none."""
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"").strip()

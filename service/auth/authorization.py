"""Authorization: the scope that each path requires, and whether a request's key has it.

Paths are matched as the router sees them: percent-decoded once, otherwise unchanged. A path that is not in the table is
rejected, whatever the router makes of it: without a valid key like every other path, with one as unknown.
"""

from __future__ import annotations

import re
from math import ceil
from typing import Literal, Protocol

from normfold.service.auth.key_file import Key, Scope
from normfold.service.auth.key_store import KeyStore
from normfold.service.auth.rate_limit import RateLimiter
from normfold.service.codec.headers import Headers
from normfold.service.errors import RateError, RequestError, ScopeError, UnauthenticatedError, UnknownPathError

RequiredScope = Scope | Literal["public", "any"]

_GRPC = r"/inference\.GRPCInferenceService"
_PAGE = r"/docs(/docs\.css|/docs\.js|/swagger-ui\.css|/swagger-ui-bundle\.js)?"
_PAGE_FILE = r"/page/[0-9a-f]{16}/[a-z/-]+\.(js|css)"
_VERSIONED = r"[^/]+(/versions/[^/]+)?"

REQUIRED_SCOPES: tuple[tuple[re.Pattern[str], RequiredScope], ...] = (
    (re.compile(rf"/|{_PAGE}|{_PAGE_FILE}|/openapi\.json|/v2/health/(live|ready)"), "public"),
    (re.compile(r"/v2/me"), "any"),
    (re.compile(rf"/metrics|/v2/models/stats|/v2/models/{_VERSIONED}/(stats|drift)"), "metrics"),
    (re.compile(r"/v2/models/[^/]+/(shadow|canary)"), "metrics"),
    (re.compile(r"/v2/models/[^/]+/(shadow|canary)/(start|end|promote)"), "admin"),
    (re.compile(r"/v2/repository/models/[^/]+/(load|unload)"), "admin"),
    (re.compile(rf"/v2/models/{_VERSIONED}/samples"), "admin"),
    (re.compile(rf"/v1/models|/v1/models/{_VERSIONED}(:predict|:classify)?"), "infer"),
    (re.compile(rf"/v2/?|/v2/repository/index|/v2/models/{_VERSIONED}(/infer|/ready|/config)?"), "infer"),
    (re.compile(rf"{_GRPC}/(ServerLive|ServerReady)"), "public"),
    (re.compile(rf"{_GRPC}/ModelStatistics"), "metrics"),
    (re.compile(rf"{_GRPC}/(RepositoryModelLoad|RepositoryModelUnload)"), "admin"),
    (re.compile(rf"{_GRPC}/(ServerMetadata|RepositoryIndex|Model(Infer|StreamInfer|Ready|Metadata|Config))"), "infer"),
)
"""The scope of the first pattern that matches the whole path. Every route must be listed here; a test checks it."""


class KeyHolder(Protocol):
    """An object that records the key of a request: its `RequestTrace`."""

    key: Key | None


def required_scope(path: str) -> RequiredScope | None:
    """Return the scope that a path requires; None for an unknown path."""
    for pattern, scope in REQUIRED_SCOPES:
        if pattern.fullmatch(path):
            return scope
    return None


class Authorizer:
    """Authorizes requests by their path and headers."""

    def __init__(self, key_store: KeyStore, limiter: RateLimiter) -> None:
        self._key_store, self._limiter = key_store, limiter

    def check(self, path: str, headers: Headers, holder: KeyHolder) -> RequestError | None:
        """Check a request's key, scope and rate.

        Args:
            path: percent-decoded.
            headers: names in lower case.
            holder: gets the key, for the access log.

        Returns:
            None if the request is authorized, otherwise the error to answer with: UnauthenticatedError,
            UnknownPathError, ScopeError or RateError.
        """
        scope = required_scope(path)
        if scope == "public":
            return None
        key, is_active = self._key_store.authenticate(_read_key(headers))
        holder.key = key
        if key is None or not is_active:
            return UnauthenticatedError()
        if scope is None:
            return UnknownPathError(path)
        if scope != "any" and scope not in key.scopes:
            return ScopeError(scope)
        if key.rate is not None and (wait_s := self._limiter.acquire(key.id, key.rate, key.max_burst)):
            return RateError(max(1, ceil(wait_s)))
        return None


def _read_key(headers: Headers) -> bytes:
    """Return the key that a request was sent with; empty if there is none."""
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"").strip()

"""The keys of a running service: looked up for each request, read again when their file changes.

A thread polls the file once a second, so that no request reads it and no file system that hangs delays one. If the file
becomes invalid or is deleted, the keys that were read last stay valid, and an error is logged.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import threading
from math import inf
from pathlib import Path
from time import time
from typing import NamedTuple

from normfold.service.auth.key_file import Key, hash_secret, read_keys, split_key
from normfold.service.background import ErrorLog
from normfold.service.errors import KeysError

POLL_INTERVAL_S = 1.0

logger = logging.getLogger(__name__)


class _StoredKey(NamedTuple):
    """A key, the digests to compare with, and when they expire; times in seconds since 1970."""

    key: Key | None
    sha256: str
    former_sha256: str
    former_until: float
    expires_at: float


_NO_DIGEST = secrets.token_hex(32)
"""Compared where there is no digest: no secret has this SHA-256."""

_NO_KEY = _StoredKey(None, _NO_DIGEST, _NO_DIGEST, 0.0, 0.0)


class KeyStore:
    """The keys of a file.

    Args:
        path: the file.

    Raises:
        KeysError: it is missing or invalid.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file_version = _file_identity(path)  # before reading: a change in between is found at the next poll
        self._entries = _index(read_keys(path))
        self._problem: str | None = None
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="normfold-keys", daemon=True)

    def authenticate(self, presented: bytes) -> tuple[Key | None, bool]:
        """Return the key that a client sent, None if it is invalid, and whether it is neither revoked nor expired.

        Both digests are always compared, so that the time of a call reveals nothing about them.
        """
        key_id, secret = split_key(presented)
        entry, digest, now = self._entries.get(key_id, _NO_KEY), hash_secret(secret), time()
        is_current = hmac.compare_digest(digest, entry.sha256)
        is_former = hmac.compare_digest(digest, entry.former_sha256) and now < entry.former_until
        if entry.key is None or not (is_current or is_former):
            return None, False
        return entry.key, now < entry.expires_at

    def start(self) -> None:
        """Start to poll the file."""
        logger.info("Requests need a key: %s.", self._describe())
        self._poller.start()

    def close(self) -> None:
        """Stop polling; a thread that hangs in the file system is abandoned."""
        self._closing.set()
        if self._poller.is_alive():
            self._poller.join(POLL_INTERVAL_S)

    def reload_if_changed(self) -> None:
        """Read the file again if it has changed."""
        version = _file_identity(self._path)
        if version == self._file_version and self._problem is None:
            return
        self._file_version = version
        try:
            self._entries = _index(read_keys(self._path))
        except KeysError as error:  # read again at every poll: the file system may be at fault, not the file
            if str(error) != self._problem:
                self._problem = str(error)
                logger.error("%s The keys that were read before stay valid.", error)
        else:
            self._problem = None
            logger.info("The keys were read again: %s.", self._describe())

    def _poll(self) -> None:
        errors = ErrorLog("The key file cannot be polled, and the keys that were read before stay valid")
        while not self._closing.wait(POLL_INTERVAL_S):
            try:
                self.reload_if_changed()
            except Exception as error:  # noqa: BLE001 -- the next poll may work
                errors.failed(error)
            else:
                errors.succeeded()

    def _describe(self) -> str:
        active = sum(time() < entry.expires_at for entry in self._entries.values())
        return f"{str(self._path)!r} has {active} active"


def _index(keys: tuple[Key, ...]) -> dict[str, _StoredKey]:
    return {key.id: _stored_key(key) for key in keys}


def _stored_key(key: Key) -> _StoredKey:
    former, expires_at = key.former, inf if key.expires is None else key.expires.timestamp()
    return _StoredKey(
        key,
        key.sha256,
        former.sha256 if former is not None else _NO_DIGEST,
        former.until.timestamp() if former is not None else 0.0,
        expires_at if key.revoked is None else 0.0,
    )


def _file_identity(path: Path) -> tuple[int, ...] | None:
    """Return numbers that change with every change of a file; None if it does not exist."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns

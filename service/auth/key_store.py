"""The keys as a running service knows them: found by what a client sends, read again when their file changes.

A thread looks at the file once a second, so that no request does, and no file system that hangs stops one. A file that
is broken or gone changes nothing: the keys that were read last go on, and the log says so.
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

from normfold.service.auth.keys import Key, hash_secret, read_keys, split_key
from normfold.service.errors import KeysError

LOOK_EVERY_S = 1.0

logger = logging.getLogger(__name__)


class _Entry(NamedTuple):
    """A key, and what is compared and when it ends; times in seconds of the Unix epoch."""

    key: Key | None
    sha256: str
    former_sha256: str
    former_until: float
    ends: float


_NOTHING = secrets.token_hex(32)
"""Compared where there is nothing to compare with: no secret has this SHA-256."""

_NO_KEY = _Entry(None, _NOTHING, _NOTHING, 0.0, 0.0)


class KeyStore:
    """The keys of a file.

    Args:
        path: the file.

    Raises:
        KeysError: it is missing or broken.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _identify(path)  # before it is read: a change in between is seen at the next look
        self._entries = _index(read_keys(path))
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="normfold-keys", daemon=True)

    def find(self, presented: bytes) -> tuple[Key | None, bool]:
        """Return the key of what a client sent, and whether it opens anything: it may be revoked or expired.

        Both digests are compared whoever asks, so that the time it takes tells nothing of them.
        """
        identity, secret = split_key(presented)
        entry, digest, now = self._entries.get(identity, _NO_KEY), hash_secret(secret), time()
        is_current = hmac.compare_digest(digest, entry.sha256)
        is_former = hmac.compare_digest(digest, entry.former_sha256) and now < entry.former_until
        if entry.key is None or not (is_current or is_former):
            return None, False
        return entry.key, now < entry.ends

    def start(self) -> None:
        """Begin to look for changes."""
        logger.info("A key is needed: %s.", self._describe())
        self._watcher.start()

    def close(self) -> None:
        """Look no more; a look that hangs is left behind."""
        self._closing.set()
        if self._watcher.is_alive():
            self._watcher.join(LOOK_EVERY_S)

    def look(self) -> None:
        """Read the file again if it is another one than before."""
        seen = _identify(self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._entries = _index(read_keys(self._path))
        except KeysError as error:
            logger.error("%s The keys that were read before go on.", error)
        else:
            logger.info("The keys were read again: %s.", self._describe())

    def _watch(self) -> None:
        while not self._closing.wait(LOOK_EVERY_S):
            try:
                self.look()
            except Exception:
                logger.exception("The keys could not be looked at; those that were read before go on.")

    def _describe(self) -> str:
        active = sum(time() < entry.ends for entry in self._entries.values())
        return f"{str(self._path)!r} has {active} active"


def _index(keys: tuple[Key, ...]) -> dict[str, _Entry]:
    return {key.id: _entry(key) for key in keys}


def _entry(key: Key) -> _Entry:
    former, ends = key.former, inf if key.expires is None else key.expires.timestamp()
    return _Entry(
        key,
        key.sha256,
        former.sha256 if former is not None else _NOTHING,
        former.until.timestamp() if former is not None else 0.0,
        ends if key.revoked is None else 0.0,
    )


def _identify(path: Path) -> tuple[int, ...] | None:
    """Return what changes with every change of a file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

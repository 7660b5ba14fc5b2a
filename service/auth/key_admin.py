"""Create, rotate and revoke keys in their file.

Each change holds a lock from reading to writing and replaces the file whole: commands that run at once lose no change,
and a service that reads meanwhile gets the old file or the new one.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from normfold.service.auth.key_file import Key, KeyFile, PreviousSecret, first_problem, hash_secret, join_key, read_keys
from normfold.service.errors import KeysError, KeysUnwritableError
from normfold.service.file_lock import lock


def create_key(path: Path, name: str, scopes: Sequence[str], **limits: Any) -> tuple[Key, str]:
    """Add a key; create the file if it does not exist.

    Args:
        path: the file.
        name: unique among active keys.
        scopes: of the key.
        limits: the fields rate, burst and expires.

    Returns:
        The key, and the text that its client sends, which is stored nowhere.

    Raises:
        KeysError: the file is invalid, the name is taken, or a field is invalid.
        KeysUnwritableError: the file cannot be written.
    """
    with _edited(path, create=True) as keys:
        now = _now()
        if any(key.name == name and key.state(now) == "active" for key in keys.values()):
            raise KeysError(path, f"has an active key named {name!r}; choose another name, or rotate that one.")
        key_id, secret = secrets.token_hex(4), secrets.token_hex(32)
        while key_id in keys:
            key_id = secrets.token_hex(4)
        try:
            facts = {"id": key_id, "name": name, "scopes": tuple(dict.fromkeys(scopes)), "created": now, **limits}
            key = Key.model_validate({**facts, "sha256": hash_secret(secret)})
        except ValidationError as error:
            raise KeysError(path, f"was not changed: {first_problem(error)}") from None
        keys[key_id] = key
    return key, join_key(key_id, secret)


def rotate_key(path: Path, identity: str, grace: timedelta = timedelta(0)) -> tuple[Key, str]:
    """Give a key a new secret; the secret before it stays valid for `grace`, older ones do not.

    Args:
        path: the file.
        identity: id of the key, or its name.
        grace: how long the old secret stays valid.

    Returns:
        The key, and the text that its client sends from now on, which is stored nowhere.

    Raises:
        KeysError: the file is invalid, it has no such key, or the key is not active.
        KeysUnwritableError: the file cannot be written.
    """
    with _edited(path) as keys:
        key, now = _find(path, keys, identity), _now()
        if (state := key.state(now)) != "active":
            raise KeysError(path, f"has a key {identity!r}, but it is {state}; create a new one.")
        secret = secrets.token_hex(32)
        former = PreviousSecret(sha256=key.sha256, until=now + grace) if grace else None
        keys[key.id] = key = key.model_copy(update={"sha256": hash_secret(secret), "former": former})
    return key, join_key(key.id, secret)


def revoke_key(path: Path, identity: str) -> Key:
    """Revoke a key for good; a key that was revoked before stays as it is.

    Args:
        path: the file.
        identity: id of the key, or its name.

    Raises:
        KeysError: the file is invalid, or has no such key.
        KeysUnwritableError: the file cannot be written.
    """
    with _edited(path) as keys:
        key = _find(path, keys, identity)
        if key.revoked is None:
            keys[key.id] = key = key.model_copy(update={"revoked": _now(), "former": None})
    return key


@contextmanager
def _edited(path: Path, create: bool = False) -> Iterator[dict[str, Key]]:
    """Yield the keys by id, to be edited in place, and write them; other commands wait meanwhile."""
    if path.is_symlink():
        path = path.resolve()  # so that the link is not replaced
    if path.is_dir():
        raise KeysError(path, "is a folder; name a file.")
    if not create and not path.exists():
        read_keys(path)
    try:
        # A lock file beside it, since the file itself is replaced.
        with lock(path.with_name(f".{path.name}.lock"), mode=0o600):
            keys = {} if create and not path.exists() else {key.id: key for key in read_keys(path)}
            before = dict(keys)
            yield keys
            if keys != before:
                _write(path, KeyFile(keys=tuple(keys.values())))
    except OSError as error:
        raise KeysUnwritableError(path, (error.strerror or str(error)).lower()) from None


def _write(path: Path, file: KeyFile) -> None:
    """Replace the file, readable for its owner only, and flush it to the disk: a revocation survives a crash."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:  # noqa: PTH123 -- a descriptor, not a path
            stream.write(file.model_dump_json(indent=2, exclude_none=True) + "\n")
            stream.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _find(path: Path, keys: dict[str, Key], identity: str) -> Key:
    """Return the key of an id, or the one of a name; an active key goes before those that are not.

    Raises:
        KeysError: there is none, or there are several.
    """
    if identity in keys:
        return keys[identity]
    named = [key for key in keys.values() if key.name == identity]
    active = [key for key in named if key.state(_now()) == "active"]
    found = active or named
    if not found:
        raise KeysError(path, f"has no key with the id or name {identity!r}; 'normfold keys list' lists the keys.")
    if len(found) > 1:
        ids = ", ".join(f"{key.id} ({key.state(_now())})" for key in found)
        raise KeysError(path, f"has {len(found)} keys named {identity!r}: {ids}; give the id of one.")
    return found[0]


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)

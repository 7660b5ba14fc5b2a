"""API keys, and the file that holds them.

    nf_3f9a1c07_5e1b…    what a client sends: prefix, the key's id (not secret), the secret

The file holds the SHA-256 of each secret, never the secret. A secret is 256 random bits, which cannot be guessed, so
one round of a fast hash is enough; slow hashes protect passwords that people choose.

`authorization` checks the key of a request, and `key_store` compares it with those of the file. `key_admin` changes the
file, for the command `normfold keys`; the service only reads it.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from math import ceil
from pathlib import Path
from typing import Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from normfold.service.errors import KeysError

SCHEMA_VERSION = 1

Scope = Literal["infer", "admin", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""infer: run models and read what they are; admin: load and unload them; metrics: read metrics, statistics, drift."""

_PREFIX = "nf"
_SHA256 = r"^[0-9a-f]{64}$"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PreviousSecret(_Record):
    """The secret before the last rotation, valid until a time."""

    sha256: str = Field(pattern=_SHA256)
    until: AwareDatetime


class Key(_Record):
    """One key, without its secret."""

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    name: str = Field(min_length=1, max_length=64, description="Shown in lists and in the access log.")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    sha256: str = Field(pattern=_SHA256, description="Of the secret, in hexadecimal.")
    created: AwareDatetime
    rate: float | None = Field(default=None, ge=0.001, description="Requests a second; left out, no limit.")
    burst: int | None = Field(default=None, ge=1, description="Requests at once; left out, those of one second.")
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None
    former: PreviousSecret | None = None

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name.isprintable() or name != name.strip():
            raise ValueError("it has unprintable characters, or spaces around it")
        return name

    @model_validator(mode="after")
    def _check_burst(self) -> Key:
        if self.burst is not None and self.rate is None:
            raise ValueError("a burst needs a rate")
        return self

    @property
    def max_burst(self) -> int:
        """Requests that may come at once; used only with a rate."""
        return self.burst or max(1, ceil(self.rate or 0))

    def state(self, now: datetime) -> Literal["active", "expired", "revoked"]:
        """Return its state at a time."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"


class KeyFile(_Record):
    """All keys, revoked ones included: their names are in access logs."""

    schema_version: Literal[1] = 1
    keys: tuple[Key, ...] = ()

    @field_validator("keys")
    @classmethod
    def _check_ids(cls, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        if len({key.id for key in keys}) < len(keys):
            raise ValueError("two keys have the same id")
        return keys


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a key file.

    Raises:
        KeysError: it is missing or unreadable, not JSON, of a newer schema version, or a field is invalid.
    """
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise KeysError(path, "does not exist; 'normfold keys create' makes it.") from None
    except OSError as error:
        raise KeysError(path, f"cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise KeysError(path, "is not JSON; it is written by 'normfold keys', not by hand.") from None
    version = record.get("schema_version") if isinstance(record, dict) else None
    if type(version) is int and version > SCHEMA_VERSION:
        raise KeysError(
            path, f"has schema version {version}, newer than the {SCHEMA_VERSION} read here; upgrade normfold."
        )
    if type(version) is not int:
        raise KeysError(path, "has no schema_version; it was not written by 'normfold keys'.")
    try:
        return KeyFile.model_validate(record).keys
    except ValidationError as error:
        raise KeysError(path, f"is wrong: {first_problem(error)}") from None


def join_key(key_id: str, secret: str) -> str:
    """Return the key as a client sends it."""
    return f"{_PREFIX}_{key_id}_{secret}"


def split_key(presented: bytes) -> tuple[str, bytes]:
    """Return the id and the secret of a key that a client sent; an empty id if it has another form."""
    prefix, _, rest = presented.partition(b"_")
    key_id, _, secret = rest.partition(b"_")
    return key_id.decode("latin-1") if prefix == _PREFIX.encode() else "", secret


def hash_secret(secret: str | bytes) -> str:
    """Return the SHA-256 of a secret, in hexadecimal."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).hexdigest()


def first_problem(error: ValidationError) -> str:
    """Return the first problem of a validation, and its field."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}{where and ': '}{first['msg'].removeprefix('Value error, ')}."

"""JSON files as pydantic models: reading them with an error that names the wrong field, and writing them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from normfold.contract.errors import InputError

RecordType = TypeVar("RecordType", bound=BaseModel)


class Record(BaseModel):
    """A frozen pydantic model that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ManifestError(InputError):
    """A manifest or source card cannot be read, or a field of it is wrong."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{str(path)!r} {problem}")
        self.path, self.problem = path, problem


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        ManifestError: unreadable, not JSON (NaN and Infinity are not), or another JSON value.
    """
    try:
        record = json.loads(path.read_bytes(), parse_constant=_reject_constant)
    except OSError as error:
        raise ManifestError(path, f"cannot be read: {error.strerror}.") from None
    except RecursionError:
        raise ManifestError(path, "is nested too deeply.") from None
    except ValueError as error:
        raise ManifestError(path, f"is not JSON: {error}.") from None
    if not isinstance(record, dict):
        raise ManifestError(path, "does not hold a JSON object.")
    return record


def validate_record(kind: type[RecordType], fields: dict[str, Any], path: Path) -> RecordType:
    """Return a record of these fields.

    Args:
        kind: class of the record.
        fields: as read from JSON.
        path: the file that they come from, for the error.

    Raises:
        ManifestError: a field is wrong or unknown; it is named.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        field, message = first_validation_error(error)
        raise ManifestError(path, f"has a wrong field {field!r}: {message}.") from None


def first_validation_error(error: ValidationError) -> tuple[str, str]:
    """Return the field, as a dotted path, and the message of a pydantic error's first problem."""
    first: Any = error.errors()[0]
    return ".".join(str(part) for part in first["loc"]), str(first["msg"])


def to_json(record: BaseModel) -> str:
    """Return a record as indented JSON with a final newline."""
    return record.model_dump_json(indent=2) + "\n"


def _reject_constant(name: str) -> NoReturn:
    """Raise for NaN, Infinity and -Infinity, which Python's parser accepts."""
    raise ValueError(f"{name} is not a JSON number")

"""Types and defaults of settings, options and fields, as a reader writes them."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any


def type_name(annotation: Any) -> str:
    """Return a type as a reader writes its values: `integer`, `seconds`, or the values of a choice."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        return " or ".join(dict.fromkeys(type_name(part) for part in parts))
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    if origin is dict:
        return "JSON object"
    if origin in (tuple, list):
        return f"list of {type_name(typing.get_args(annotation)[0])}"
    names = {bool: "boolean", int: "integer", float: "number", str: "text", Path: "path"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def default_text(value: Any) -> str:
    if value is None or value == () or value == {}:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int) and value >= 2**16 and value % 2**10 == 0:
        for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if value % size == 0:
                return f"`{value}` ({value // size} {unit})"
    return f"`{value}`"

"""Checks of arguments of the public API: each is of the kind that its function takes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from normfold.errors import ArgumentError


@dataclass(frozen=True)
class Kind:
    """A kind of argument.

    Attributes:
        words: as a sentence names it.
        holds: returns whether a value is of this kind.
    """

    words: str
    holds: Callable[[object], bool]


def _is_path(value: object) -> bool:
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    return isinstance(text, str) and text != "" and "\0" not in text


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(one, str) for one in value)


def _has_text_keys(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def whole_number(minimum: int) -> Kind:
    """Return the kind of whole numbers of at least `minimum`."""
    return Kind(f"a whole number of at least {minimum}", lambda value: _is_whole(value) and value >= minimum)  # type: ignore[operator]


PATH = Kind("a path", _is_path)
TEXT = Kind("a string that is not empty", lambda value: isinstance(value, str) and value != "")
FLAG = Kind("True or False", lambda value: isinstance(value, bool | np.bool_))
INTEGER = Kind("a whole number", _is_whole)
VERSION = whole_number(1)
NUMBER = Kind("a finite number", _is_number)
NOT_NEGATIVE = Kind("a number of at least 0", lambda value: _is_number(value) and value >= 0)  # type: ignore[operator]
POSITIVE = Kind("a number above 0", lambda value: _is_number(value) and value > 0)  # type: ignore[operator]
TENSORS = Kind("a dict of name to array", _has_text_keys)
NAMES = Kind("a list of names", _is_list_of_texts)
OPTIONS = Kind(
    "a dict of name to value, or a list of texts NAME=VALUE",
    lambda value: _has_text_keys(value) or _is_list_of_texts(value),
)
PROGRESS = Kind("True, False or a function", lambda value: isinstance(value, bool) or callable(value))


def check(kind: Kind, **given: object) -> None:
    """Check that arguments, by name, are of a kind.

    Raises:
        ArgumentError: naming the first that is not.
    """
    for name, value in given.items():
        if not kind.holds(value):
            raise ArgumentError(f"`{name}` must be {kind.words}, not {describe(value)}.{_advice(value)}")


def check_optional(kind: Kind, **given: object) -> None:
    """Check those arguments that are not None, as `check` does."""
    check(kind, **{name: value for name, value in given.items() if value is not None})


def check_as_tensors(as_tensors: bool | None, samples: str | os.PathLike[str] | None) -> None:
    """Check that there is an .npz whose content `as_tensors` can state.

    Raises:
        ArgumentError: there are no samples, or others.
    """
    if as_tensors is None:
        return
    if samples is None:
        raise ArgumentError("`as_tensors` states what `samples` hold, and none are given.")
    if Path(samples).is_dir() or Path(samples).suffix.lower() in (".csv", ".tsv", ".parquet"):
        raise ArgumentError(f"`as_tensors` states what an .npz holds; {str(samples)!r} is none.")


def describe(value: object) -> str:
    """Return a value as a sentence shows it: in at most 41 characters, or its type if it is neither text nor number."""
    if value is not None and not isinstance(value, str | bytes | bool | int | float | os.PathLike):
        return f"an object of type {type(value).__name__!r}"
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"


def _advice(value: object) -> str:
    is_model = type(value).__name__ == "ModelProto"  # of onnx, which may not be installed
    return " Write the model to a file first, with onnx.save." if is_model else ""

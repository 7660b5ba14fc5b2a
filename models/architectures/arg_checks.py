"""Checks of the options that several architectures have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from normfold.models.errors import ArchitectureError


def check_picture(name: str, input_shape: Sequence[int]) -> None:
    """Make sure that samples are pictures.

    Raises:
        ArchitectureError: they are not (channels, height, width).
    """
    if len(input_shape) != 3:
        raise ArchitectureError(f"A {name} takes samples of shape (channels, height, width), got {list(input_shape)}.")


def check_stages(depths: Any, widths: Any) -> None:
    """Make sure that each stage has a number of blocks and of channels.

    Raises:
        ArchitectureError: not as many depths as widths, none, or one that is no positive whole number.
    """
    check_counts("depths", depths)
    check_counts("widths", widths)
    if len(depths) != len(widths):
        raise ArchitectureError(f"Give one depth for each width; got depths {list(depths)} and widths {list(widths)}.")


def check_counts(name: str, values: Any) -> None:
    """Make sure that an option is a list of positive whole numbers, of at least one.

    Raises:
        ArchitectureError: it is not.
    """
    if not isinstance(values, (list, tuple)) or not values or not all(map(_is_count, values)):
        raise ArchitectureError(f"Option {name!r} must be a list of positive whole numbers, for example [16,32].")


def check_count(name: str, value: Any) -> None:
    """Make sure that an option is a positive whole number.

    Raises:
        ArchitectureError: it is not.
    """
    if not _is_count(value):
        raise ArchitectureError(f"Option {name!r} must be a positive whole number, not {value!r}.")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Make sure that an option is one of a few values.

    Raises:
        ArchitectureError: it is not.
    """
    if value not in choices:
        raise ArchitectureError(f"Unknown {name} {value!r}; there are {', '.join(map(str, choices))}.")


def check_dropout(dropout: Any) -> None:
    """Make sure that dropout leaves something.

    Raises:
        ArchitectureError: it is no number from 0 to below 1.
    """
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ArchitectureError(f"Option 'dropout' must be a probability from 0 to below 1, not {dropout!r}.")


def check_fraction(name: str, value: Any) -> None:
    """Make sure that an option is a share of something.

    Raises:
        ArchitectureError: it is no number above 0 and up to 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ArchitectureError(f"Option {name!r} must be a number above 0 and up to 1, not {value!r}.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0

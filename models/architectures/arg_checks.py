"""Checks of the arguments that several architectures share; each raises an ArchitectureError with the argument's name.

An option may come from the command line or from a config file, so that its type is checked too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from normfold.models.errors import ArchitectureError


def check_image_shape(architecture: str, input_shape: Sequence[int]) -> None:
    """Check that samples are images, (channels, height, width).

    Raises:
        ArchitectureError: `input_shape` does not have three axes.
    """
    if len(input_shape) != 3:
        raise ArchitectureError(
            f"A {architecture} takes samples of shape (channels, height, width), got {list(input_shape)}."
        )


def check_stages(depths: Any, widths: Any) -> None:
    """Check that every stage has a number of blocks and a number of channels.

    Raises:
        ArchitectureError: the two differ in length, are empty, or hold anything but positive integers.
    """
    check_counts("depths", depths)
    check_counts("widths", widths)
    if len(depths) != len(widths):
        raise ArchitectureError(f"Give one depth for each width; got depths {list(depths)} and widths {list(widths)}.")


def check_counts(name: str, values: Any) -> None:
    """Check that an option is a list of at least one positive integer.

    Raises:
        ArchitectureError: it is not.
    """
    if not isinstance(values, (list, tuple)) or not values or not all(map(_is_count, values)):
        raise ArchitectureError(f"Option {name!r} must be a list of positive integers, for example [16,32].")


def check_count(name: str, value: Any) -> None:
    """Check that an option is a positive integer.

    Raises:
        ArchitectureError: it is not.
    """
    if not _is_count(value):
        raise ArchitectureError(f"Option {name!r} must be a positive integer, not {value!r}.")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Check that an option is one of `choices`.

    Raises:
        ArchitectureError: it is not.
    """
    if value not in choices:
        raise ArchitectureError(f"Unknown {name} {value!r}; choose from {', '.join(map(str, choices))}.")


def check_dropout(dropout: Any) -> None:
    """Check that a dropout probability is at least 0 and below 1.

    Raises:
        ArchitectureError: it is not a number, or outside [0, 1).
    """
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ArchitectureError(f"Option 'dropout' must be a probability of at least 0 and below 1, not {dropout!r}.")


def check_fraction(name: str, value: Any) -> None:
    """Check that an option is a fraction above 0 and at most 1.

    Raises:
        ArchitectureError: it is not a number, or outside (0, 1].
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ArchitectureError(f"Option {name!r} must be a number above 0 and at most 1, not {value!r}.")


def check_min_size(input_shape: Sequence[int], smallest: int, parts: str, option: str) -> None:
    """Check that no spatial axis of a sample is reduced below one position.

    Args:
        input_shape: (channels, *size).
        smallest: size that every spatial axis needs.
        parts: the number and kind of the parts that reduce the size, for the message: "3 stages".
        option: the option that sets their number.

    Raises:
        ArchitectureError: an axis is smaller.
    """
    if min(input_shape[1:]) < smallest:
        raise ArchitectureError(
            f"{parts} need a size of at least {smallest} along every axis, got {list(input_shape[1:])}; "
            f"give fewer {option}."
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0

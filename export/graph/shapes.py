"""Shapes of values as inference found them: a size is a number, a name, or None where nothing is known."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

Sizes = tuple[int | str | None, ...]


def sizes_of(value: ir.Value | None) -> Sizes | None:
    """Return the sizes of a value's axes, or None if not even its rank is known."""
    if value is None or value.shape is None:
        return None
    return tuple([size if isinstance(size, int) else size.value for size in value.shape])  # faster than a generator


def rank_of(value: ir.Value | None) -> int | None:
    """Return the number of axes, or None if it is not known."""
    sizes = sizes_of(value)
    return None if sizes is None else len(sizes)


def static_size(value: ir.Value | None, axis: int) -> int | None:
    """Return the size of one axis, or None if it is not a known number."""
    sizes = sizes_of(value)
    if sizes is None or not -len(sizes) <= axis < len(sizes):
        return None
    size = sizes[axis]
    return size if isinstance(size, int) else None


def static_sizes(values: Sequence[ir.Value | None], axis: int) -> list[int] | None:
    """Return the sizes of several values along one axis, or None if one is not a known number."""
    sizes = [size for value in values if (size := static_size(value, axis)) is not None]
    return sizes if len(sizes) == len(values) else None


def broadcasts_into(constant: tuple[int, ...], sizes: Sizes | None) -> bool:
    """Return whether a constant of this shape broadcasts into a value without enlarging it."""
    if sizes is None or len(constant) > len(sizes):
        return False
    return all(size in (1, other) for size, other in zip(reversed(constant), reversed(sizes), strict=False))

"""Evenly spaced places in a sequence: rows lie in files by class or by time, and the first alone are not like all."""

from __future__ import annotations


def evenly_spaced(count: int, limit: int) -> list[int]:
    """Return places in a sequence, ascending, with gaps as even as can be; the first place is always among them.

    Args:
        count: length of the sequence.
        limit: number of places to return, where there are as many.
    """
    number = min(count, limit)
    return [place * count // number for place in range(number)]

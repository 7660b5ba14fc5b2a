"""Some of many, evenly spread: rows lie in files by class or by time, and the first alone are not like all."""

from __future__ import annotations


def spread(count: int, most: int) -> list[int]:
    """Return places in a sequence, ascending, with gaps as even as can be; the first place is always among them.

    Args:
        count: length of the sequence.
        most: how many places to return, where there are as many.
    """
    taken = min(count, most)
    return [place * count // taken for place in range(taken)]

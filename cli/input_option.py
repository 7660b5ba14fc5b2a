"""The option --input: what the network shall take."""

from __future__ import annotations

PIXELS = "uint8"
"""What --input says for a network that shall take 8-bit pixels."""


def parse_input(text: str | None) -> tuple[str | None, bool]:
    """Read what --input says: the shape of one sample, uint8, or both as uint8:3x224x224.

    Returns:
        The shape, as text, if there is one; and whether the network shall take pixels.
    """
    if text is None:
        return None, False
    kind, colon, shape = text.partition(":")
    if kind == PIXELS:
        return shape if colon else None, True
    return text, False

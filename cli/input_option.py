"""The option --input: shape and dtype of the network's input."""

from __future__ import annotations

PIXELS = "uint8"
"""Value of --input for a network that is to take 8-bit pixels."""


def parse_input(text: str | None) -> tuple[str | None, bool]:
    """Parse --input: the shape of one sample, uint8, or both as uint8:3x224x224.

    Returns:
        The shape, as text, if there is one; and whether the network is to take pixels.
    """
    if text is None:
        return None, False
    kind, colon, shape = text.partition(":")
    if kind == PIXELS:
        return shape if colon else None, True
    return text, False

"""`normfold inspect`."""


def inspect() -> None:
    """Placeholder until the room exists."""

"""`normfold fold`."""


def fold() -> None:
    """Placeholder until the room exists."""

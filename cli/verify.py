"""`normfold verify`."""


def verify() -> None:
    """Placeholder until the room exists."""

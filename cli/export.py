"""`normfold export`."""


def export() -> None:
    """Placeholder until the room exists."""

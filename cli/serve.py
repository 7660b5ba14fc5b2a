"""`normfold serve`."""


def serve() -> None:
    """Placeholder until the room exists."""

"""`normfold train`."""


def train() -> None:
    """Placeholder until the room exists."""

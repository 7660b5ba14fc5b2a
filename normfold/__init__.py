"""Train, fold, verify, export and serve batch-normalised networks."""

from __future__ import annotations


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("normfold")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

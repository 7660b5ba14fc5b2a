"""Paths as the public API takes them."""

from __future__ import annotations

import os
from pathlib import Path

AnyPath = str | os.PathLike[str]

REPOSITORY = "model_repository"
"""The folder of models, where none is named."""


def optional_path(path: AnyPath | None) -> Path | None:
    """Return a path, or None where none is given."""
    return None if path is None else Path(path)

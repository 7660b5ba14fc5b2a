"""The path of an infer request: /v2/models/{model}[/versions/{version}]/infer."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

_BEYOND_PATH = frozenset(b"%?#")
"""Characters of a target that is more than a path, or a path with escapes."""


class ModelRef(NamedTuple):
    """The model, and the version if one is given, that a path names."""

    model: str
    version: str | None

    @property
    def route(self) -> str:
        """The pattern of the path that names it."""
        return "/v2/models/{model}/infer" if self.version is None else "/v2/models/{model}/versions/{version}/infer"


def match_infer_path(path: str) -> ModelRef | None:
    """Return the model that a path asks to infer; None for any other path."""
    if not path.endswith("/infer"):
        return None
    parts = path.split("/")
    if parts[:3] == ["", "v2", "models"] and parts[3:4] != [""]:
        if len(parts) == 5:
            return ModelRef(parts[3], None)
        if len(parts) == 7 and parts[4] == "versions" and parts[5]:
            return ModelRef(parts[3], parts[5])
    return None


@lru_cache(maxsize=1024)
def match_infer_url(url: bytes) -> ModelRef | None:
    """Return the model that a request target asks to infer; None for any other, and if it is more than a plain path."""
    return match_infer_path(url.decode("ascii")) if url.isascii() and _BEYOND_PATH.isdisjoint(url) else None

"""One version of a model in the repository, whatever its state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from normfold.service.repository.loaded_model import Model
from normfold.service.repository.scan import Fingerprint

Role = Literal["serving", "canary", "shadow", "ended"]
"""Of a version in its model, as `service.repository.roles` explains them."""


@dataclass
class VersionEntry:
    """One version of a model.

    Attributes:
        folder: NAME/VERSION/.
        state: of the protocol's repository extension.
        reason: why it is not ready; empty if it is.
        model: the loaded version; None unless it is ready.
        failed: fingerprint of the folder when its load failed; it is not loaded again until that changes.
        is_missing: whether its folder is gone.
        is_desired: whether it should be ready: the version policy selects it, and it was not unloaded by request.
        role: of the version; a request that names no version is answered by one that is serving.
        is_promoted: whether the version was promoted: as the highest, it is loaded whatever the version policy says.
    """

    folder: Path
    state: Literal["LOADING", "READY", "UNAVAILABLE"] = "UNAVAILABLE"
    reason: str = "it was not loaded."
    model: Model | None = None
    failed: Fingerprint | None = None
    is_missing: bool = False
    is_desired: bool = False
    role: Role = "serving"
    is_promoted: bool = False


Entries = Mapping[str, Mapping[int, VersionEntry]]
"""Entries by model and version, both in ascending order."""


def can_serve(entries: Entries) -> bool:
    """Return whether a version is ready that answers requests which name none."""
    return any(
        entry.model is not None and entry.role == "serving"
        for versions in entries.values()
        for entry in versions.values()
    )


def list_ready(entries: Entries) -> list[str]:
    """Return the versions that are ready, as NAME/VERSION."""
    return [
        f"{name}/{number}"
        for name, versions in entries.items()
        for number, entry in versions.items()
        if entry.model is not None
    ]


def list_reasons(entries: Entries, unreadable: Mapping[str, str]) -> list[str]:
    """Return why no version serves: the reason of each, and of the models whose versions cannot be listed."""
    return [f"{name}: {reason}" for name, reason in unreadable.items()] + [
        f"{name}/{number}: {entry.reason or f'it is a {entry.role}, and no version serves.'}"
        for name, versions in entries.items()
        for number, entry in versions.items()
    ]

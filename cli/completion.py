"""Values that a shell completes: architectures, models of a repository and their versions, sources.

Each function runs at every press of the tab key, so that none imports more than the standard library.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import typer

from normfold._shared.paths import REPOSITORY

ARCHITECTURES = (
    *("mlp", "convnet", "resnet", "resnet18", "resnet34", "resnet50", "preact_resnet", "mobilenet", "mobilenet_v2"),
    *("densenet", "densenet121", "repvgg", "unet", "temporal"),
)
"""As in `models.architectures.registry`, which imports torch; a test compares them."""

_MANIFEST, _CONFIG = "manifest.json", "config.json"


def complete_architecture(incomplete: str) -> list[str]:
    """Complete the name of an architecture."""
    return _starting(ARCHITECTURES, incomplete)


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a model in the repository of the command."""
    return _starting((folder.name for folder in _models(_repository(context))), incomplete)


def complete_version(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a version of the model that the command names before it."""
    folder = _repository(context) / str(context.params.get("name") or "")
    return _starting(sorted((one.name for one in _versions(folder)), key=int, reverse=True), incomplete)


def complete_source(incomplete: str) -> list[str]:
    """Complete a folder that leads to a run or a bundle, or an ONNX file; or a model of the usual repository."""
    folder, _, start = incomplete.rpartition("/")
    before = f"{folder}/" if "/" in incomplete else ""
    found = [
        f"{before}{path.name}{'/' if path.is_dir() and not _is_end(path) else ''}"
        for path in _list(Path(before or "."))
        if path.name.startswith(start) and (path.suffix == ".onnx" or path.is_dir()) and path.name[0] != "."
    ]
    names = [] if before else _starting((one.name for one in _models(_usual_repository())), incomplete)
    return [*found, *(name for name in names if name not in found)]


def _usual_repository() -> Path:
    return Path(os.environ.get("NORMFOLD_REPOSITORY") or REPOSITORY)


def _repository(context: typer.Context) -> Path:
    given = context.params.get("repository")
    return Path(given) if given else _usual_repository()


def _is_end(path: Path) -> bool:
    return (path / _CONFIG).is_file() or bool(_versions(path)) or (path / _MANIFEST).is_file()


def _models(repository: Path) -> Iterator[Path]:
    return (folder for folder in _list(repository) if _versions(folder))


def _versions(folder: Path) -> list[Path]:
    return [one for one in _list(folder) if one.name.isdecimal() and (one / _MANIFEST).is_file()]


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]

"""The repository of models: a folder NAME/VERSION/ for each bundle, scanned once and loaded version by version.

    LOADING ──▶ READY          answers
            └─▶ UNAVAILABLE    with a reason; every other version goes on

All versions are loaded, and each can be addressed. A request without a version gets the highest one that is ready, so
that a new version that is broken does not take down the one before it. The service is ready when the scan is
done and at least one model answers: were one broken bundle to make it unready, it would take the healthy ones down.
"""

from __future__ import annotations

import logging
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

from contract.errors import NormfoldError
from contract.manifest import LARGEST_VERSION
from service.bundle import lies_within, open_bundle, read_bundle
from service.engine import Model
from service.errors import ModelUnavailableError, RunError, UnknownModelError
from service.processors import available_processors
from service.settings import Settings
from service.telemetry import Telemetry
from service.workers import Workers

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DIGITS = re.compile(r"[0-9]+")


@dataclass
class Entry:
    """One version of a model, whatever its state."""

    folder: Path
    state: Literal["LOADING", "READY", "UNAVAILABLE"] = "LOADING"
    reason: str = "it is being loaded."
    model: Model | None = None


class Repository:
    """The models that the service has. Routes ask it for a model by name; nothing from a request becomes a path."""

    def __init__(self, settings: Settings, workers: Workers, telemetry: Telemetry) -> None:
        self._settings, self._workers, self._telemetry = settings, workers, telemetry
        self._root = settings.repository
        self._threads = settings.intra_op_threads or available_processors()
        self._entries: dict[str, dict[int, Entry]] = {}
        self._unreadable: dict[str, str] = {}
        self._problem: str | None = "The models are being loaded."

    @property
    def entries(self) -> Mapping[str, Mapping[int, Entry]]:
        """Every model's versions, both in ascending order."""
        return self._entries

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Models whose versions cannot be listed, and why."""
        return self._unreadable

    @property
    def problem(self) -> str | None:
        """Why the service is not ready, in one sentence; None when it is."""
        return self._problem

    def find(self, name: str, version: str | None = None) -> Model:
        """Return a model that can answer: the version asked for, or the highest that is ready.

        Raises:
            UnknownModelError: no such model or version.
            ModelUnavailableError: it is loading, or could not be loaded.
        """
        if name in self._unreadable:
            raise ModelUnavailableError(name, version, self._unreadable[name])
        versions = self._entries.get(name)
        if not versions:
            raise UnknownModelError(name)
        if version is not None:
            number = _read_version(version)
            if number not in versions:
                raise UnknownModelError(name, version)
            entry = versions[number]
            if entry.model is None:
                raise ModelUnavailableError(name, version, entry.reason)
            return entry.model
        for number in sorted(versions, reverse=True):
            if (model := versions[number].model) is not None:
                return model
        raise ModelUnavailableError(name, None, versions[max(versions)].reason)

    async def load(self) -> None:
        """Scan the repository and load every version, the highest of each model first.

        A bundle that fails is logged and left unavailable. Nothing is raised: what stops the scan itself is logged and
        becomes the reason why the service is not ready.
        """
        try:
            self._entries, self._unreadable = await self._workers.call(self._scan)
            for name, versions in self._entries.items():
                for number in sorted(versions, reverse=True):
                    await self._load_version(name, number, versions[number])
            self._problem = self._describe_problem()
        except OSError as error:
            self._problem = f"The repository {str(self._root)!r} cannot be read: {error.strerror}."
        except Exception:
            self._problem = "Loading the models stopped on an unexpected error; the service's log has the traceback."
            logger.exception("Loading the models stopped.")
        if self._problem:
            logger.error("Not ready: %s", self._problem)
        else:
            logger.info("Ready: %s.", ", ".join(self._list_ready()))

    async def _load_version(self, name: str, number: int, entry: Entry) -> None:
        started = perf_counter()
        try:
            entry.model = await self._workers.call(self._open, entry.folder)
        except Exception as error:
            entry.state, entry.reason = "UNAVAILABLE", self._explain(error)
            expected = isinstance(error, NormfoldError)
            logger.error("%s/%d is unavailable: %s", name, number, entry.reason, exc_info=None if expected else error)
            return
        entry.state, entry.reason = "READY", ""
        seconds, provider = perf_counter() - started, entry.model.session.provider
        logger.info("%s/%d is ready on %s after %.2f s.", name, number, provider, seconds)

    def _open(self, folder: Path) -> Model:
        manifest = read_bundle(folder, self._root)
        stats = self._telemetry.stats(manifest.name, manifest.version)
        return open_bundle(folder, manifest, self._settings, self._threads, self._workers, stats)

    def _scan(self) -> tuple[dict[str, dict[int, Entry]], dict[str, str]]:
        """List the version folders of each model; whatever is not named like a model or a version is no bundle.

        Returns:
            The models that have versions, and those whose versions cannot be listed, with the reason.
        """
        models, unreadable = {}, {}
        for path in sorted(self._root.iterdir()) if self._root.is_dir() else ():
            if not _NAME.fullmatch(path.name):
                continue
            try:
                if versions := self._list_versions(path):
                    models[path.name] = versions
            except OSError as error:
                unreadable[path.name] = f"its folder cannot be read: {error.strerror}."
                logger.error("%s is unavailable: %s", path.name, unreadable[path.name])
        return models, unreadable

    def _list_versions(self, model: Path) -> dict[int, Entry]:
        versions = {}
        for folder in model.iterdir() if self._is_usable_folder(model) else ():
            number = _read_version(folder.name)
            if number is not None and self._is_usable_folder(folder):
                versions[number] = Entry(folder)
            elif number is None and _DIGITS.fullmatch(folder.name):
                logger.warning("%s is ignored: versions go from 1 to %d.", folder, LARGEST_VERSION)
        return dict(sorted(versions.items()))

    def _is_usable_folder(self, path: Path) -> bool:
        with suppress(OSError):  # why it cannot be looked at, opening it will say
            if not stat.S_ISDIR(path.stat().st_mode):
                return False
        if not lies_within(path, self._root):
            logger.warning("%s is ignored: it is a symbolic link that leaves the repository.", path)
            return False
        return True

    def _list_ready(self) -> list[str]:
        return [
            f"{name}/{number}"
            for name, versions in self._entries.items()
            for number, entry in versions.items()
            if entry.model
        ]

    def _describe_problem(self) -> str | None:
        if self._list_ready():
            return None
        if not self._root.is_dir():
            return f"There is no folder {str(self._root)!r}; name the repository with --repository."
        if not self._entries and not self._unreadable:
            return f"There are no models in {str(self._root)!r}; export one with: normfold export."
        reasons = [f"{name}: {reason}" for name, reason in self._unreadable.items()]
        reasons += [
            f"{name}/{number}: {entry.reason}"
            for name, versions in self._entries.items()
            for number, entry in versions.items()
        ]
        return f"No model could be loaded. {' '.join(reasons)}"

    def _explain(self, error: Exception) -> str:
        """Say why a bundle failed, without the repository's place on this machine."""
        if isinstance(error, RunError):
            return f"The network fails on zeros: {error.detail}"
        if isinstance(error, NormfoldError):
            return str(error).replace(f"{self._root}/", "")
        return "It failed in an unexpected way; the service's log has the traceback."


def _read_version(text: str) -> int | None:
    """Return the version that a folder or a request names, or None if it names none."""
    if not _DIGITS.fullmatch(text) or text.startswith("0") or len(text) > len(str(LARGEST_VERSION)):
        return None
    number = int(text)
    return number if number <= LARGEST_VERSION else None

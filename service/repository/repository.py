"""The repository of models: what is loaded of it, and which version answers.

    LOADING ──▶ READY          answers, until it is let go: UNAVAILABLE
            └─▶ UNAVAILABLE    with a reason; every other version goes on

A request without a version gets the highest one that is ready. A new version is opened and warmed aside and answers
from one moment to the next; only then are older ones let go, once what they were asked is answered. So a new version
that is broken never takes the one before it down. The service is ready when the repository was read and at least one
model answers: were one broken bundle to make it unready, it would take the healthy ones down.

What changes in the folders counts as `model_control` says: never (none), when it is asked for (explicit), or every
`poll_interval_s` (poll).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

from normfold.contract.bundle import read_version
from normfold.contract.errors import NormfoldError
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.errors import BundleError, ControlError, ModelUnavailableError, RunError, UnknownModelError
from normfold.service.observability.request_trace import Telemetry
from normfold.service.repository.loaded_model import Model
from normfold.service.repository.loader import open_bundle, read_bundle
from normfold.service.repository.scan import Fingerprint, fingerprint, scan
from normfold.service.repository.version_policy import VersionPolicy
from normfold.service.runtime.cpu_limits import share_of_processors
from normfold.service.runtime.malloc import give_back
from normfold.service.settings import Settings

logger = logging.getLogger(__name__)

DRAIN_TIMEOUT_S = 30.0
"""How long a version that is let go may finish what it was asked."""

_DRAIN_STEP_S = 0.01


@dataclass
class Entry:
    """One version of a model, whatever its state."""

    folder: Path
    state: Literal["LOADING", "READY", "UNAVAILABLE"] = "UNAVAILABLE"
    reason: str = "it was not loaded."
    model: Model | None = None
    failed: Fingerprint | None = None
    """What the folder was like when it could not be loaded; until that changes it is not tried again."""
    is_gone: bool = False
    is_wanted: bool = False
    """Whether it should answer: the version policy asks for it, and nobody has unloaded it."""


class Repository:
    """The models that the service has. Routes ask it for a model by name; nothing from a request becomes a path."""

    def __init__(self, settings: Settings, workers: ThreadPool, telemetry: Telemetry) -> None:
        self._settings, self._workers, self._telemetry = settings, workers, telemetry
        self._root = settings.repository
        self._threads = settings.intra_op_threads or share_of_processors(settings.workers)
        self._policy = VersionPolicy.parse(settings.version_policy)
        self._entries: dict[str, dict[int, Entry]] = {}
        self._unreadable: dict[str, str] = {}
        self._unloaded: set[str] = set()
        self._problem: str | None = "The models are being loaded."
        self._changing = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def entries(self) -> Mapping[str, Mapping[int, Entry]]:
        """Every model's versions, both in ascending order."""
        return self._entries

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Models whose versions cannot be listed, and why."""
        return self._unreadable

    @property
    def policy(self) -> VersionPolicy:
        """Which versions are loaded."""
        return self._policy

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
        versions = self._entries.get(name)
        if not versions:
            if name in self._unreadable:
                raise ModelUnavailableError(name, version, self._unreadable[name])
            raise UnknownModelError(name)
        if version is not None:
            number = read_version(version)
            if number not in versions:
                raise UnknownModelError(name, version)
            entry = versions[number]
            if entry.model is None:
                raise ModelUnavailableError(name, version, entry.reason)
            return entry.model
        for number in reversed(versions):
            if (model := versions[number].model) is not None:
                return model
        raise ModelUnavailableError(name, None, versions[max(versions)].reason)

    async def load(self) -> None:
        """Read the repository and load what the version policy asks for, the highest version of each model first.

        A bundle that fails is logged and left unavailable. Nothing is raised: what stops the scan itself is logged and
        becomes the reason why the service is not ready.
        """
        explicit = self._settings.model_control == "explicit"
        await self.refresh(loading=not explicit)
        if self._problem:
            logger.error("Not ready: %s", self._problem)
        else:
            logger.info("Ready: %s.", ", ".join(self._list_ready()) or "no model is loaded yet")

    async def watch(self) -> None:
        """Refresh for ever, if the folders are polled."""
        while self._settings.model_control == "poll":
            await asyncio.sleep(self._settings.poll_interval_s)
            await self.refresh()

    async def refresh(self, loading: bool = True) -> None:
        """Look at the folders: load versions that are new or were put right, let go of those that are gone."""
        try:
            async with self._changing:
                await self._note_folders()
                for name in list(self._entries):
                    if loading and name not in self._unloaded:
                        await self._apply_policy(name)
                    self._drop_gone(name)
                self._problem = self._describe_problem()
        except OSError as error:
            self._note_fault(self._describe_loss(error))
        except Exception:
            logger.exception("Loading the models stopped.")
            self._note_fault("Loading the models stopped on an unexpected error; the service's log has the traceback.")

    async def load_model(self, name: str) -> None:
        """Load a model's versions as the policy asks for, those that failed before too.

        Raises:
            ControlError: clients may not.
            UnknownModelError: there is no such model.
            ModelUnavailableError: not one version of it could be loaded.
        """
        self.require_control()
        async with self._changing:
            try:
                await self._note_folders()
            except OSError as error:
                self._telemetry.load_failures[""] += 1
                raise ModelUnavailableError(name, None, self._describe_loss(error)) from error
            if name not in self._entries:
                self.find(name)
            self._unloaded.discard(name)
            for entry in self._entries[name].values():
                entry.failed = None
            await self._apply_policy(name)
            self._drop_gone(name)
            self._problem = self._describe_problem()
        self.find(name)

    async def unload_model(self, name: str) -> None:
        """Let go of all versions of a model.

        Raises:
            ControlError: clients may not.
            UnknownModelError: there is no such model.
        """
        self.require_control()
        async with self._changing:
            if name not in self._entries:
                raise UnknownModelError(name)
            self._unloaded.add(name)
            for number, entry in self._entries[name].items():
                self._let_go(name, number, entry, "it was unloaded.")
            self._problem = self._describe_problem()

    async def close(self) -> None:
        """End every queue."""
        for task in self._leaving:
            task.cancel()
        for versions in self._entries.values():
            for entry in versions.values():
                if entry.model is not None:
                    entry.model.close()
                    entry.model.keep()  # nobody waits for the event loop any more

    def require_control(self) -> None:
        """Refuse to load and unload by request, unless that is on.

        Raises:
            ControlError: it is not.
        """
        if self._settings.model_control != "explicit":
            raise ControlError(self._settings.model_control)

    async def _note_folders(self) -> None:
        """Take note of versions that are new, and of those whose folders are gone: they answer until others do."""
        found = await self._workers.call(scan, self._root)
        for name, reason in found.unreadable.items():
            if name not in self._unreadable:
                self._telemetry.load_failures[name] += 1
                logger.error("%s is unavailable: %s", name, reason)
        self._unreadable = found.unreadable
        for name in [*self._entries]:
            for number in [*self._entries[name]]:
                entry = self._entries[name][number]
                entry.is_gone = number not in found.models.get(name, ()) and name not in found.unreadable
        for name, folders in found.models.items():
            known = self._entries.get(name, {})
            if known.keys() != folders.keys():
                new = {number: Entry(folder) for number, folder in folders.items() if number not in known}
                self._entries[name] = dict(sorted((known | new).items()))
        self._entries = dict(sorted(self._entries.items()))

    async def _apply_policy(self, name: str) -> None:
        """Load what the policy asks for, the highest first; then let go of what it does not."""
        ready = 0
        surplus = []
        for number in sorted(self._entries[name], reverse=True):
            entry = self._entries[name][number]
            if entry.is_gone or not self._policy.wants(number, ready):
                surplus.append((number, entry))
            elif entry.model is not None or await self._load_version(name, number, entry):
                ready += 1
        for number, entry in surplus:
            reason = "its folder is gone." if entry.is_gone else f"the version policy {self._policy} leaves it out."
            self._let_go(name, number, entry, reason)

    def _drop_gone(self, name: str) -> None:
        """Forget the versions of a model whose folders are gone."""
        for number in [number for number, entry in self._entries[name].items() if entry.is_gone]:
            self._let_go(name, number, self._entries[name].pop(number), "its folder is gone.")
        if not self._entries[name]:
            del self._entries[name]

    async def _load_version(self, name: str, number: int, entry: Entry) -> bool:
        """Load a version aside; return whether it can answer now."""
        entry.is_wanted = True
        seen = await self._workers.call(fingerprint, entry.folder)
        if entry.failed == seen:
            return False
        entry.state, entry.reason, started = "LOADING", "it is being loaded.", perf_counter()
        try:
            model = await self._workers.call(self._open, entry.folder, seen)
        except Exception as error:
            entry.state, entry.reason, entry.failed = "UNAVAILABLE", self._explain(error), seen
            self._telemetry.load_failures[name] += 1
            expected = isinstance(error, NormfoldError)
            logger.error("%s/%d is unavailable: %s", name, number, entry.reason, exc_info=None if expected else error)
            return False
        entry.model, entry.state, entry.reason, entry.failed = model, "READY", "", None
        seconds = perf_counter() - started
        logger.info("%s/%d is ready on %s (%.2f s).", name, number, model.session.place, seconds)
        return True

    def _let_go(self, name: str, number: int, entry: Entry, reason: str) -> None:
        """Take a version out; what it was asked is answered first, in a task of its own."""
        model, entry.model = entry.model, None
        entry.state, entry.reason, entry.is_wanted = "UNAVAILABLE", reason, False
        if model is not None:
            logger.info("%s/%d is let go: %s", name, number, reason)
            task = asyncio.create_task(self._drain(model))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _drain(self, model: Model) -> None:
        deadline = perf_counter() + DRAIN_TIMEOUT_S
        while not model.is_idle and perf_counter() < deadline:
            await asyncio.sleep(_DRAIN_STEP_S)
        model.close()
        await self._workers.call(model.keep)
        self._telemetry.forget(model.name, model.version, model.stats)
        del model
        await self._workers.call(give_back)

    def _open(self, folder: Path, seen: Fingerprint) -> Model:
        """Open a bundle, and see to it that what was opened is what was checked."""
        manifest = read_bundle(folder, self._root)
        stats = self._telemetry.begin(manifest.name, manifest.version)
        model = open_bundle(folder, manifest, self._settings, self._threads, self._workers, stats)
        if fingerprint(folder) != seen:
            raise BundleError("Its files changed while it was being loaded.")
        return model

    def _note_fault(self, problem: str) -> None:
        """Note what stopped a look at the folders; models that answer go on."""
        self._telemetry.load_failures[""] += 1
        if self._list_ready():
            logger.error("%s", problem)
        else:
            self._problem = problem

    def _list_ready(self) -> list[str]:
        return [
            f"{name}/{number}"
            for name, versions in self._entries.items()
            for number, entry in versions.items()
            if entry.model
        ]

    def _describe_problem(self) -> str | None:
        if self._list_ready() or self._settings.model_control == "explicit":
            return None
        if not self._entries and not self._unreadable:
            return f"There are no models in {str(self._root)!r}; export one with: normfold export."
        reasons = [f"{name}: {reason}" for name, reason in self._unreadable.items()]
        reasons += [
            f"{name}/{number}: {entry.reason}"
            for name, versions in self._entries.items()
            for number, entry in versions.items()
        ]
        return f"No model could be loaded. {' '.join(reasons)}"

    def _describe_loss(self, error: OSError) -> str:
        """Say why the repository itself cannot be listed."""
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return f"There is no folder {str(self._root)!r}; name the repository with --repository."
        return f"The repository {str(self._root)!r} cannot be read: {error.strerror}."

    def _explain(self, error: Exception) -> str:
        """Say why a bundle failed, without the repository's place on this machine."""
        if isinstance(error, RunError):
            return f"The network fails on zeros: {error.detail}"
        if isinstance(error, NormfoldError):
            return str(error).replace(f"{self._root}/", "")
        return "It failed in an unexpected way; the service's log has the traceback."

"""The repository of models: its versions, which of them are ready, and which one answers a request.

    LOADING ──▶ READY          answers until it is unloaded: UNAVAILABLE
            └─▶ UNAVAILABLE    with a reason; other versions are not affected

A request without a version gets the highest one that is ready and serving; `service.repository.roles` has the other
roles. The service is ready when the repository was read and at
least one model is: if one invalid bundle made it unready, it would take the valid ones down.

When folders are read again depends on `model_control`: never (none), when a client asks for it (explicit), or every
`poll_interval_s` (poll).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from normfold.contract.bundle import parse_version
from normfold.service.background import ErrorLog, run_forever
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.errors import ControlError, ModelUnavailableError, UnknownModelError
from normfold.service.observability.telemetry import Telemetry
from normfold.service.repository.entry import Entries, VersionEntry, can_serve, list_ready, list_reasons
from normfold.service.repository.hint import hint_at_repository
from normfold.service.repository.loaded_model import Model
from normfold.service.repository.roles import Roles, RoleState
from normfold.service.repository.scan import scan
from normfold.service.repository.version_policy import VersionPolicy
from normfold.service.repository.version_switch import VersionSwitch
from normfold.service.settings import Settings

logger = logging.getLogger(__name__)


class Repository:
    """The models of the service. Routes look models up by name; no part of a request becomes a path.

    Args:
        settings: name the folder, the version policy and `model_control`.
        thread_pool: reads folders, loads bundles, runs networks.
        telemetry: counts loads that fail, and has the sums of each loaded version.

    Attributes:
        roles: of the versions.
        lock: held by whoever changes versions or roles.
        on_change: called, with the lock held, after versions were loaded or unloaded.
    """

    def __init__(self, settings: Settings, thread_pool: ThreadPool, telemetry: Telemetry) -> None:
        self.roles = Roles(settings)
        self.lock = asyncio.Lock()
        self.on_change: Callable[[], Awaitable[None]] | None = None
        self._settings, self._thread_pool, self._telemetry = settings, thread_pool, telemetry
        self._root = settings.repository
        self._policy = VersionPolicy.parse(settings.version_policy)
        self._switch = VersionSwitch(settings, self._policy, thread_pool, telemetry)
        self._entries: dict[str, dict[int, VersionEntry]] = {}
        self._unreadable: dict[str, str] = {}
        self._unloaded: set[str] = set()
        self._hint = ""
        self._problem: str | None = "The models are being loaded."

    @property
    def entries(self) -> Entries:
        """The versions of every model, both in ascending order."""
        return self._entries

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Models whose versions cannot be listed, and the reason."""
        return self._unreadable

    @property
    def policy(self) -> VersionPolicy:
        """Selects the versions to load."""
        return self._policy

    @property
    def problem(self) -> str | None:
        """The reason why the service is not ready, one sentence; None when it is."""
        return self._problem

    def find(self, name: str, version: str | None = None) -> Model:
        """Return a model that is ready: the version asked for, or the highest.

        Raises:
            UnknownModelError: the repository has no such model or version.
            ModelUnavailableError: it is loading, or could not be loaded.
        """
        versions = self._entries.get(name)
        if not versions:
            if name in self._unreadable:
                raise ModelUnavailableError(name, version, self._unreadable[name])
            raise UnknownModelError(name)
        if version is not None:
            number = parse_version(version)
            if number not in versions:
                raise UnknownModelError(name, version)
            entry = versions[number]
            if entry.model is None:
                raise ModelUnavailableError(name, version, entry.reason)
            return entry.model
        for number in reversed(versions):
            entry = versions[number]
            if entry.model is not None and entry.role == "serving":
                return entry.model
        serving = [number for number, entry in versions.items() if entry.role == "serving"]
        reason = versions[serving[-1]].reason if serving else "it has no version besides a shadow or a canary."
        raise ModelUnavailableError(name, None, reason)

    async def load(self) -> None:
        """Read the repository and load the versions that the policy selects, the highest version of each model first.

        Nothing is raised: a bundle that fails is logged and stays unavailable, and what stops the scan itself is logged
        and becomes the reason why the service is not ready.
        """
        explicit = self._settings.model_control == "explicit"
        await self.refresh(loading=not explicit)
        if self._problem:
            logger.error("Not ready: %s", self._problem)
        else:
            logger.info("Ready: %s.", ", ".join(list_ready(self._entries)) or "no model is loaded yet")

    async def poll(self) -> None:
        """Refresh every `poll_interval_s` until cancelled; return at once unless `model_control` is poll."""
        if self._settings.model_control == "poll":
            errors = ErrorLog("The repository cannot be polled")
            await run_forever(errors, self.refresh, self._settings.poll_interval_s)

    async def refresh(self, loading: bool = True) -> None:
        """Read the folders again: load versions that are new or have changed, unload those whose folders are gone.

        Args:
            loading: whether to load; otherwise only folders that are gone count.
        """
        try:
            async with self.lock:
                await self._scan()
                for name in list(self._entries):
                    if loading and name not in self._unloaded:
                        await self._switch.apply_policy(name, self._entries[name])
                    self._remove_missing(name)
                self._problem = self._describe_problem()
                await self._changed()
        except OSError as error:
            self._hint = await self._thread_pool.call(hint_at_repository, self._root)
            self._record_scan_failure(self._describe_scan_error(error))
        except Exception:
            logger.exception("Loading the models stopped.")
            self._record_scan_failure(
                "Loading the models stopped on an unexpected error; the service's log has the traceback."
            )

    async def load_model(self, name: str) -> None:
        """Load the versions of a model that the policy selects, those that failed before included.

        Raises:
            ControlError: model_control is not 'explicit'.
            UnknownModelError: the repository has no such model.
            ModelUnavailableError: no version of it could be loaded.
        """
        self.require_control()
        async with self.lock:
            await self.read_folders(name)
            if name not in self._entries:
                self.find(name)
            self._unloaded.discard(name)
            for entry in self._entries[name].values():
                entry.failed = None
            await self._switch.apply_policy(name, self._entries[name])
            self._remove_missing(name)
            self._problem = self._describe_problem()
            await self._changed()
        self.find(name)

    async def unload_model(self, name: str) -> None:
        """Unload all versions of a model.

        Raises:
            ControlError: model_control is not 'explicit'.
            UnknownModelError: the repository has no such model.
        """
        self.require_control()
        async with self.lock:
            if name not in self._entries:
                raise UnknownModelError(name)
            self._unloaded.add(name)
            for number, entry in self._entries[name].items():
                self._switch.unload(name, number, entry, "it was unloaded.")
            self._problem = self._describe_problem()
            await self._changed()

    async def close(self) -> None:
        """Fail all requests that wait, and save the state of drift monitoring: the service ends."""
        self._switch.cancel_draining()
        for versions in self._entries.values():
            for entry in versions.values():
                if entry.model is not None:
                    entry.model.close()
                    entry.model.save_drift()  # on the event loop: no requests need it any more

    def require_control(self) -> None:
        """Check that clients may load and unload models.

        Raises:
            ControlError: model_control is not 'explicit'.
        """
        if self._settings.model_control != "explicit":
            raise ControlError(self._settings.model_control)

    async def read_folders(self, name: str) -> None:
        """Add the versions of a model that are new, without loading them; the lock must be held.

        Raises:
            ModelUnavailableError: the repository cannot be listed.
        """
        try:
            await self._scan()
        except OSError as error:
            self._telemetry.load_failures[""] += 1
            raise ModelUnavailableError(name, None, self._describe_scan_error(error)) from error

    async def set_roles(self, name: str, state: RoleState) -> None:
        """Change the roles of a model's versions, and load and unload those that changed; the lock must be held.

        A version that is promoted, or is a canary, is loaded; a version that fails stays unavailable with its reason.
        No other version is loaded.
        """
        before, versions = self.roles.of(name), self._entries.get(name, {})
        self.roles.set(name, state)
        self.roles.assign({name: versions})
        changed = {*state.promoted} - {*before.promoted} | ({state.canary.version} if state.canary else set())
        for number in sorted(changed & versions.keys()):
            await self._switch.load(name, number, versions[number])
        self._switch.unload_surplus(name, versions)
        self._problem = self._describe_problem()
        await self._changed()

    async def _changed(self) -> None:
        if self.on_change is not None:
            await self.on_change()

    async def _scan(self) -> None:
        """Add versions that are new, and mark those whose folders are gone: they answer until they are unloaded.

        Raises:
            OSError: the repository cannot be listed.
        """
        found = await self._thread_pool.call(scan, self._root)
        for name, reason in found.unreadable.items():
            if name not in self._unreadable:
                self._telemetry.load_failures[name] += 1
                logger.error("%s is unavailable: %s", name, reason)
        self._unreadable = found.unreadable
        is_empty = not found.models and not found.unreadable
        self._hint = await self._thread_pool.call(hint_at_repository, self._root) if is_empty else ""
        for name in [*self._entries]:
            for number in [*self._entries[name]]:
                entry = self._entries[name][number]
                entry.is_missing = number not in found.models.get(name, ()) and name not in found.unreadable
        for name, folders in found.models.items():
            known = self._entries.get(name, {})
            if known.keys() != folders.keys():
                new = {number: VersionEntry(folder) for number, folder in folders.items() if number not in known}
                self._entries[name] = dict(sorted((known | new).items()))
        self._entries = dict(sorted(self._entries.items()))
        self.roles.assign(self._entries)

    def _remove_missing(self, name: str) -> None:
        """Unload and remove the versions of a model whose folders are gone."""
        for number in [number for number, entry in self._entries[name].items() if entry.is_missing]:
            self._switch.unload(name, number, self._entries[name].pop(number), "its folder is gone.")
        if not self._entries[name]:
            del self._entries[name]

    def _record_scan_failure(self, problem: str) -> None:
        """Count and log what stopped a scan; it makes the service unready only if no model is ready."""
        self._telemetry.load_failures[""] += 1
        if can_serve(self._entries):
            logger.error("%s", problem)
        else:
            self._problem = problem

    def _describe_problem(self) -> str | None:
        """Return why the service is not ready after a scan."""
        if can_serve(self._entries) or self._settings.model_control == "explicit":
            return None
        if not self._entries and not self._unreadable:
            return f"There are no models in {str(self._root)!r}; export one with: normfold export.{self._hint}"
        return f"No model could be loaded. {' '.join(list_reasons(self._entries, self._unreadable))}"

    def _describe_scan_error(self, error: OSError) -> str:
        """Return why the repository itself cannot be listed."""
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return f"There is no folder {str(self._root)!r}, which the setting 'repository' names.{self._hint}"
        return f"The repository {str(self._root)!r} cannot be read: {error.strerror}."

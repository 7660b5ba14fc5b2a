"""Switch the versions of one model: load the desired ones, then unload and drain the others.

A new version is opened and warmed up while the older ones answer; from one moment to the next it is ready, and only
then are those unloaded that the policy does not select. So a new version that is invalid never stops the one before it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter

from normfold.contract.errors import NormfoldError
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.errors import BundleLoadError, RunError
from normfold.service.observability.telemetry import Telemetry
from normfold.service.repository.entry import VersionEntry
from normfold.service.repository.loaded_model import Model
from normfold.service.repository.loader import open_bundle, read_bundle
from normfold.service.repository.roles import hold_reason
from normfold.service.repository.scan import Fingerprint, fingerprint
from normfold.service.repository.version_policy import VersionPolicy
from normfold.service.runtime.cpu_limits import share_of_processors
from normfold.service.runtime.malloc import release_memory
from normfold.service.settings import Settings

logger = logging.getLogger(__name__)

DRAIN_TIMEOUT_S = 30.0
"""Seconds that a version gets to answer its requests after it was unloaded."""

_DRAIN_POLL_S = 0.01


class VersionSwitch:
    """Loads and unloads versions. The event loop alone calls it, one change at a time.

    Args:
        settings: name the repository, the provider and the limits.
        policy: selects the versions to load.
        thread_pool: opens and closes bundles, and runs the networks.
        telemetry: has the sums of each loaded version.
    """

    def __init__(
        self, settings: Settings, policy: VersionPolicy, thread_pool: ThreadPool, telemetry: Telemetry
    ) -> None:
        self._settings, self._policy, self._thread_pool, self._telemetry = settings, policy, thread_pool, telemetry
        self._root = settings.repository
        self._threads = settings.intra_op_threads or share_of_processors(settings.workers)
        self._draining: set[asyncio.Task[None]] = set()

    async def apply_policy(self, name: str, versions: Mapping[int, VersionEntry]) -> None:
        """Load the versions that the policy selects, the highest first, then a canary, then unload all others."""
        ready = 0
        surplus = []
        for number in sorted(versions, reverse=True):
            entry = versions[number]
            if not self._is_selected(number, entry, ready):
                surplus.append((number, entry))
            elif entry.model is not None or await self.load(name, number, entry):
                ready += 1
        for number, entry in surplus:
            if entry.role == "canary" and not entry.is_missing:
                await self.load(name, number, entry)
            else:
                self.unload(name, number, entry, self._describe_surplus(entry))

    def unload_surplus(self, name: str, versions: Mapping[int, VersionEntry]) -> None:
        """Unload the versions that their role or the policy does not allow beside those that are ready; load none."""
        ready = 0
        for number in sorted(versions, reverse=True):
            entry = versions[number]
            if entry.model is None or entry.role == "canary":
                continue
            if self._is_selected(number, entry, ready):
                ready += 1
            else:
                self.unload(name, number, entry, self._describe_surplus(entry))

    def _is_selected(self, number: int, entry: VersionEntry, ready: int) -> bool:
        """Return whether a version is to be ready for requests that name none, beside `ready` higher ones."""
        if entry.is_missing or entry.role != "serving":
            return False
        return self._policy.selects(number, ready) or (entry.is_promoted and not ready)

    def _describe_surplus(self, entry: VersionEntry) -> str:
        if entry.is_missing:
            return "its folder is gone."
        return hold_reason(entry) or f"the version policy {self._policy} leaves it out."

    async def load(self, name: str, number: int, entry: VersionEntry) -> bool:
        """Load a version unless it is loaded; return whether it is ready now."""
        entry.is_desired = True
        if entry.model is not None:
            return True
        found = await self._thread_pool.call(fingerprint, entry.folder)
        if entry.failed == found:
            return False
        entry.state, entry.reason, started = "LOADING", "it is being loaded.", perf_counter()
        try:
            model = await self._thread_pool.call(self._open, entry.folder, found)
        except Exception as error:
            entry.state, entry.reason, entry.failed = "UNAVAILABLE", self._explain(error), found
            self._telemetry.load_failures[name] += 1
            expected = isinstance(error, NormfoldError)
            logger.error("%s/%d is unavailable: %s", name, number, entry.reason, exc_info=None if expected else error)
            return False
        entry.model, entry.state, entry.reason, entry.failed = model, "READY", "", None
        seconds = perf_counter() - started
        logger.info("%s/%d is ready on %s (%.2f s).", name, number, model.session.placement, seconds)
        return True

    def unload(self, name: str, number: int, entry: VersionEntry, reason: str) -> None:
        """Unload a version: it gets no further requests, and those that it has are drained in a task of its own."""
        model, entry.model = entry.model, None
        entry.state, entry.reason, entry.is_desired = "UNAVAILABLE", reason, False
        if model is not None:
            logger.info("%s/%d is unloaded: %s", name, number, reason)
            task = asyncio.create_task(self._drain(model))
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)

    def cancel_draining(self) -> None:
        """Stop waiting for unloaded versions to answer their requests, when the service ends."""
        for task in self._draining:
            task.cancel()

    async def _drain(self, model: Model) -> None:
        """Wait until a version has answered its requests, at most DRAIN_TIMEOUT_S, then close it."""
        deadline = perf_counter() + DRAIN_TIMEOUT_S
        while not model.is_idle and perf_counter() < deadline:
            await asyncio.sleep(_DRAIN_POLL_S)
        model.close()
        try:
            await self._thread_pool.call(model.save_drift)
        except Exception:
            logger.exception("The drift statistics of %s/%d could not be saved.", model.name, model.version)
        self._telemetry.remove(model.name, model.version, model.stats)
        del model
        await self._thread_pool.call(release_memory)

    def _open(self, folder: Path, expected: Fingerprint) -> Model:
        """Open a bundle, and check that the files that were opened are those that were checked."""
        manifest = read_bundle(folder, self._root)
        stats = self._telemetry.start(manifest.name, manifest.version)
        model = open_bundle(folder, manifest, self._settings, self._threads, self._thread_pool, stats)
        if fingerprint(folder) != expected:
            raise BundleLoadError("Its files changed while it was being loaded.")
        return model

    def _explain(self, error: Exception) -> str:
        """Return why a bundle failed to load, without the repository's path on this machine."""
        if isinstance(error, RunError):
            return f"The network fails on zeros: {error.detail}"
        if isinstance(error, NormfoldError):
            return str(error).replace(f"{self._root}/", "")
        return "It failed in an unexpected way; the service's log has the traceback."

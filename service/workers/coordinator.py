"""Coordination of the worker processes: a request to one of them holds for all, and each reports for all.

load, unload    done here, then requested of the others; answered when every living worker has done it
ready           when every worker has loaded its models; a worker that replaces a dead one accepts requests only then
telemetry       sums over all workers, dead ones included
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic

from normfold.contract.errors import NormfoldError
from normfold.service.background import ErrorLog, run_forever
from normfold.service.errors import ModelUnavailableError
from normfold.service.observability.rollout.shadow_stats import ShadowStats
from normfold.service.observability.stats import ModelStats
from normfold.service.observability.telemetry import Telemetry
from normfold.service.repository.repository import Repository
from normfold.service.repository.roles import RoleState
from normfold.service.rollout.rollouts import Rollouts
from normfold.service.workers.shared_state import POLL_INTERVAL_S, PUBLISH_INTERVAL_S, SharedState, WorkerStatus
from normfold.service.workers.worker_record import WorkerRecord

logger = logging.getLogger(__name__)


class Coordinator:
    """Coordinates this worker with the others; without shared state it is the only one.

    Args:
        repository: this worker's models.
        telemetry: this worker's sums.
        shared: state of all workers; None for a single process.
        workers: number of workers that there should be.
        rollouts: this worker's shadows.

    Attributes:
        is_stopping: whether `stop` was called.
    """

    def __init__(
        self,
        repository: Repository,
        telemetry: Telemetry,
        shared: SharedState | None = None,
        workers: int = 1,
        rollouts: Rollouts | None = None,
    ) -> None:
        self.workers = workers
        self._record = WorkerRecord(repository, telemetry, rollouts)
        self._shared, self._repository, self._telemetry = shared, repository, telemetry
        self._generation = 0
        self._applied: dict[str, int] = {}
        self._failures: dict[str, str] = {}
        self._were_all_ready = shared is None
        self.is_stopping = False
        self._published_at = -inf
        self._errors = ErrorLog("The workers cannot share their state")
        self.replaces_dead_worker = any(not other.is_alive for other in self._others())

    @property
    def problem(self) -> str | None:
        """The reason why the service is not ready; None when it is."""
        if self.is_stopping:
            return "The service is stopping."
        if self._repository.problem is not None or self._were_all_ready:
            return self._repository.problem
        ready = 1 + sum(other.problem is None for other in self._living())
        self._were_all_ready = ready >= self.workers
        return None if self._were_all_ready else f"{ready} of {self.workers} workers are ready."

    def stop(self) -> None:
        """Report not ready from now on; requests are still answered."""
        self.is_stopping = True

    async def load_model(self, name: str) -> None:
        """Load a model in every worker.

        Raises:
            ControlError: model_control is not 'explicit'.
            UnknownModelError: the repository has no such model.
            ModelUnavailableError: no version of it could be loaded, here or by another worker.
        """
        self._repository.require_control()
        await self._apply_everywhere(name, loaded=True)
        self._repository.find(name)

    async def unload_model(self, name: str) -> None:
        """Unload a model in every worker.

        Raises:
            ControlError: model_control is not 'explicit'.
            UnknownModelError: the repository has no such model.
        """
        self._repository.require_control()
        await self._apply_everywhere(name, loaded=False)

    async def set_roles(self, name: str, state: RoleState) -> None:
        """Change the roles of a model's versions in every worker.

        Raises:
            ModelUnavailableError: the other workers cannot be reached.
        """
        await self._apply_everywhere(name, roles=state)

    async def catch_up(self) -> None:
        """Apply the load requests from before this worker's start, and publish its status; `run` retries what fails."""
        if self._shared is not None:
            try:
                await self._follow(self._shared)
            except Exception as error:  # noqa: BLE001 -- the models are loaded, whatever the others know of it
                self._errors.failed(error)

    async def run(self) -> None:
        """Apply the other workers' load requests and publish this worker's status, until cancelled."""
        shared = self._shared
        if shared is not None:
            await run_forever(self._errors, partial(self._follow, shared), POLL_INTERVAL_S)

    def close(self) -> None:
        """Publish this worker's last telemetry and leave the shared state."""
        if self._shared is not None:
            try:
                self._publish(self._shared)
            except (OSError, ValueError) as error:
                self._errors.failed(error)
            self._shared.close()

    def stats(self) -> dict[tuple[str, int], ModelStats]:
        """Return the sums of every version over all workers, by name and version."""
        if self._shared is None:
            return self._telemetry.models
        with suppress(OSError, ValueError):
            self._publish(self._shared)  # so that a counter that was scraped never falls, even if this worker dies
        sums: dict[tuple[str, int], ModelStats] = {}
        for telemetry in [self._record.everything(), *(other.telemetry for other in self._others())]:
            for name, version, record in telemetry.get("models", ()):
                sums.setdefault((name, version), ModelStats()).add(record)
        return sums

    def load_failures(self) -> Counter[str]:
        """Return the loads that failed, by model, over all workers; under "" those of the whole repository."""
        return self._sum("load_failures", self._telemetry.load_failures)

    def shadow(self, name: str, version: int) -> tuple[bool, str | None, ShadowStats]:
        """Return whether a shadow is ready in every worker, its problem in any of them, and its sums over all."""
        living, stats = [other.telemetry for other in self._living()], ShadowStats()
        own = self._record.shadows()
        for shadows in [own["shadows"], *(other.telemetry.get("shadows", ()) for other in self._others())]:
            for model, number, record in shadows:
                if (model, number) == (name, version):
                    stats.add(record)
        states = [own, *living]
        is_ready = all(
            any((name, version) == (model, number) for model, number, _ in state.get("shadows", ())) for state in states
        )
        problems = [state.get("shadow_problems", {}).get(name) for state in states]
        return is_ready, next((problem for problem in problems if problem is not None), None), stats

    def payloads(self) -> Counter[str] | None:
        """Return the answers by what became of them in the payload log, over all workers; None if there is none."""
        if self._telemetry.payloads is None:
            return None
        return self._sum("payloads", self._telemetry.payloads())

    def lost_lines(self) -> Counter[str]:
        """Return the lines that were lost, by log, over all workers."""
        return self._sum("lost_lines", self._telemetry.lost_lines())

    def is_ready(self, name: str, version: int) -> bool:
        """Return whether a version is ready in every worker, as of about a second ago in the others."""
        everywhere = [self._record.queues(), *(other.telemetry.get("queues", []) for other in self._living())]
        return all(any((name, version) == (model, number) for model, number, _ in queues) for queues in everywhere)

    def in_flight(self) -> int:
        """Return the number of requests that are being answered, over all workers."""
        return self._telemetry.in_flight + sum(int(other.telemetry.get("in_flight", 0)) for other in self._living())

    def queued_rows(self, name: str, version: int) -> int:
        """Return the rows that wait for a version over all workers, as of about a second ago in the others."""
        queues = self._record.queues()
        for other in self._living():
            queues += other.telemetry.get("queues", [])
        return sum(int(rows) for model, number, rows in queues if (model, number) == (name, version))

    def processes(self) -> list[int]:
        """Return the process ids of the living workers."""
        return [os.getpid(), *(other.process for other in self._living())]

    def _sum(self, field: str, own: Mapping[str, int]) -> Counter[str]:
        """Return the counts of this worker, and those that the others publish in a field of their telemetry."""
        sums = Counter(own)
        for other in self._others():
            sums.update(other.telemetry.get(field, {}))
        return sums

    async def _apply_everywhere(self, name: str, loaded: bool | None = None, roles: RoleState | None = None) -> None:
        """Request a change of all workers, make it here, and wait until every living worker has made it."""
        if self._shared is None:
            await self._apply(name, loaded, roles)
            return
        try:
            key, generation = self._shared.request(name, loaded, None if roles is None else roles.to_record())
        except (OSError, ValueError) as error:
            raise ModelUnavailableError(name, None, f"the other workers cannot be reached ({error}).") from error
        self._applied[key], failure = generation, None
        try:
            await self._apply(name, loaded, roles)
        except NormfoldError as error:
            failure = error
        while any(other.generation < generation for other in self._living()):
            await asyncio.sleep(POLL_INTERVAL_S)
        if failure is not None:
            raise failure
        for other in self._living():
            if loaded and name in other.failures:
                raise ModelUnavailableError(name, None, f"another worker reports: {other.failures[name]}")

    async def _apply(self, name: str, loaded: bool | None, roles: RoleState | None) -> None:
        """Make a change in this worker."""
        if roles is not None:
            async with self._repository.lock:
                await self._repository.read_folders(name)
                await self._repository.set_roles(name, roles)
        elif loaded:
            await self._repository.load_model(name)
        else:
            await self._repository.unload_model(name)

    async def _follow(self, shared: SharedState) -> None:
        """Apply the load requests that are new, and publish this worker's status if it has changed or is old."""
        if shared.is_orphaned:
            if not self.is_stopping:
                logger.error("The parent process has ended; this worker ends too.")
                os.kill(os.getpid(), signal.SIGTERM)
            return
        if await self._apply_requests(shared) or monotonic() - self._published_at >= PUBLISH_INTERVAL_S:
            self._publish(shared)

    async def _apply_requests(self, shared: SharedState) -> bool:
        """Apply the change requests that are new to this worker, by generation; return whether there were any."""
        requests = shared.change_requests()
        before = self._generation
        for key, request in sorted(requests.items(), key=lambda item: item[1].generation):
            if self._applied.get(key, 0) < request.generation:
                self._applied[key] = request.generation
                self._failures.pop(request.model, None)
                roles = None if request.roles is None else RoleState.from_record(request.roles)
                try:
                    await self._apply(request.model, request.loaded, roles)
                except NormfoldError as error:
                    self._failures[request.model] = str(error)
            self._generation = max(self._generation, request.generation)
        return self._generation > before

    def _publish(self, shared: SharedState) -> None:
        shared.publish(self._generation, self._repository.problem, self._failures, self._record.everything())
        self._published_at = monotonic()

    def _others(self) -> list[WorkerStatus]:
        return [] if self._shared is None else self._shared.others()

    def _living(self) -> list[WorkerStatus]:
        return [other for other in self._others() if other.is_alive]

"""One worker process among several, or alone: what is asked of one holds in all, what all counted any can tell.

load, unload    done here, then wished of the others; answered when every living one has done it
ready           once every worker has loaded what it should; one that takes a dead one's place is let in when it has
figures         sums over all, those that died among them
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import Counter
from contextlib import suppress
from time import monotonic
from typing import Any

from normfold.contract.errors import NormfoldError
from normfold.service.errors import ModelUnavailableError
from normfold.service.observability.request_trace import ModelStats, Telemetry
from normfold.service.repository.repository import Repository
from normfold.service.workers.shared_state import FOLLOW_S, TELL_S, SharedState, WorkerStatus

logger = logging.getLogger(__name__)

_TRY_AGAIN_S = 5.0


class Coordinator:
    """This worker's part.

    Args:
        repository: this worker's models.
        telemetry: what it counts.
        shared: where the workers meet; None for one that is alone.
        workers: how many there should be.
    """

    def __init__(
        self, repository: Repository, telemetry: Telemetry, shared: SharedState | None = None, workers: int = 1
    ) -> None:
        self.workers = workers
        self._shared, self._repository, self._telemetry = shared, repository, telemetry
        self._turn = 0
        self._done: dict[str, int] = {}
        self._failures: dict[str, str] = {}
        self._were_ready = shared is None
        self._is_stopping = False
        self.replaces_another = any(not other.is_alive for other in self._others())

    @property
    def problem(self) -> str | None:
        """Why the service is not ready; None when it is."""
        if self._is_stopping:
            return "The service is stopping."
        if self._repository.problem is not None or self._were_ready:
            return self._repository.problem
        ready = 1 + sum(other.problem is None for other in self._living())
        self._were_ready = ready >= self.workers
        return None if self._were_ready else f"{ready} of {self.workers} workers are ready."

    def stop(self) -> None:
        """Be ready no more; what is asked is still answered."""
        self._is_stopping = True

    async def load_model(self, name: str) -> None:
        """Load a model in every worker.

        Raises:
            ControlError: clients may not.
            UnknownModelError: there is no such model.
            ModelUnavailableError: not one version of it could be loaded, here or by another worker.
        """
        await self._change(name, loaded=True)
        self._repository.find(name)

    async def unload_model(self, name: str) -> None:
        """Let go of a model in every worker.

        Raises:
            ControlError: clients may not.
            UnknownModelError: there is no such model.
        """
        await self._change(name, loaded=False)

    async def catch_up(self) -> None:
        """Do what clients have asked of the workers before this one was there, and say that it is."""
        if self._shared is not None:
            await self._follow(self._shared)
            self._tell(self._shared)

    async def work(self) -> None:
        """Follow the others' wishes and tell them what was counted, for ever."""
        shared, told = self._shared, monotonic()
        while shared is not None:
            await asyncio.sleep(FOLLOW_S)
            if shared.is_orphaned:
                logger.error("The parent process is gone; this worker ends.")
                os.kill(os.getpid(), signal.SIGTERM)
                return
            try:
                if await self._follow(shared) or monotonic() - told >= TELL_S:
                    self._tell(shared)
                    told = monotonic()
            except (OSError, ValueError) as error:
                logger.error("The workers cannot tell each other anything: %s.", error)
                await asyncio.sleep(_TRY_AGAIN_S)

    def close(self) -> None:
        """Leave what was counted for the others to sum."""
        if self._shared is not None:
            self._tell(self._shared)
            self._shared.close()

    def models(self) -> dict[tuple[str, int], ModelStats]:
        """Return the sums of every version, over all workers."""
        if self._shared is None:
            return self._telemetry.models
        with suppress(OSError, ValueError):
            self._tell(self._shared)  # what was reported once must not be lost: a counter never falls
        sums: dict[tuple[str, int], ModelStats] = {}
        for counted in [self._count(), *(other.counted for other in self._others())]:
            for name, version, record in counted.get("models", ()):
                sums.setdefault((name, version), ModelStats()).add(record)
        return sums

    def load_failures(self) -> Counter[str]:
        """Return how many loads of each model failed, over all workers; under "" those of the whole repository."""
        sums = Counter(self._telemetry.load_failures)
        for other in self._others():
            sums.update(other.counted.get("load_failures", {}))
        return sums

    def can_answer(self, name: str, version: int) -> bool:
        """Return whether a version is ready in every worker, as of a second ago in the others."""
        everywhere = [self._count_queues(), *(other.counted.get("queues", []) for other in self._living())]
        return all(any((name, version) == (model, number) for model, number, _ in queues) for queues in everywhere)

    def in_flight(self) -> int:
        """Return how many requests are being answered."""
        return self._telemetry.in_flight + sum(int(other.counted.get("in_flight", 0)) for other in self._living())

    def queued_rows(self, name: str, version: int) -> int:
        """Return how many rows wait for a version, over all workers, as of a second ago in the others."""
        queues = self._count_queues()
        for other in self._living():
            queues += other.counted.get("queues", [])
        return sum(int(rows) for model, number, rows in queues if (model, number) == (name, version))

    def processes(self) -> list[int]:
        """Return the living workers' process ids."""
        return [os.getpid(), *(other.process for other in self._living())]

    async def _change(self, name: str, loaded: bool) -> None:
        """Wish it of all, do it here, and wait until all that live have done it."""
        act = self._repository.load_model if loaded else self._repository.unload_model
        if self._shared is None:
            await act(name)
            return
        self._repository.require_control()
        try:
            turn = self._shared.wish(name, loaded)
        except (OSError, ValueError) as error:
            raise ModelUnavailableError(name, None, f"the other workers cannot be told ({error}).") from error
        self._done[name], failure = turn, None
        try:
            await act(name)
        except NormfoldError as error:
            failure = error
        while any(other.turn < turn for other in self._living()):
            await asyncio.sleep(FOLLOW_S)
        if failure is not None:
            raise failure
        for other in self._living():
            if loaded and name in other.failures:
                raise ModelUnavailableError(name, None, f"another worker says: {other.failures[name]}")

    async def _follow(self, shared: SharedState) -> bool:
        """Do what is wished and not done yet, in the order of the turns; return whether there was anything."""
        wishes = shared.wishes()
        before = self._turn
        for name, wish in sorted(wishes.items(), key=lambda item: item[1].turn):
            if self._done.get(name, 0) < wish.turn:
                self._done[name] = wish.turn
                self._failures.pop(name, None)
                try:
                    await (self._repository.load_model if wish.loaded else self._repository.unload_model)(name)
                except NormfoldError as error:
                    self._failures[name] = str(error)
            self._turn = max(self._turn, wish.turn)
        return self._turn > before

    def _tell(self, shared: SharedState) -> None:
        shared.tell(self._turn, self._repository.problem, self._failures, self._count())

    def _others(self) -> list[WorkerStatus]:
        return [] if self._shared is None else self._shared.others()

    def _living(self) -> list[WorkerStatus]:
        return [other for other in self._others() if other.is_alive]

    def _count(self) -> dict[str, Any]:
        models = [[name, version, stats.record()] for (name, version), stats in self._telemetry.models.items()]
        return {
            "models": models,
            "in_flight": self._telemetry.in_flight,
            "load_failures": self._telemetry.load_failures,
            "queues": self._count_queues(),
        }

    def _count_queues(self) -> list[tuple[str, int, int]]:
        return [
            (name, number, entry.model.batcher.queued_rows)
            for name, versions in self._repository.entries.items()
            for number, entry in versions.items()
            if entry.model is not None
        ]

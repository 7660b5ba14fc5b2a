"""Writes the recent inputs that are kept as soon as `normfold adapt` requests it (`contract.drift.flush_request`)."""

from __future__ import annotations

from collections.abc import Sequence

from normfold.contract.drift.flush_request import POLL_INTERVAL_S
from normfold.service.background import ErrorLog, run_forever
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.drift.sample_buffer import SampleBuffer
from normfold.service.repository.repository import Repository


class SampleFlusher:
    """Looks for requests to write the inputs of the versions that are loaded."""

    def __init__(self, repository: Repository, thread_pool: ThreadPool) -> None:
        self._repository, self._thread_pool = repository, thread_pool

    async def run(self) -> None:
        """Look every POLL_INTERVAL_S, until cancelled."""
        await run_forever(ErrorLog("Recent inputs cannot be written on request"), self.check, POLL_INTERVAL_S)

    async def check(self) -> None:
        """Look once."""
        kept = [
            entry.model.drift_monitor.samples
            for versions in self._repository.entries.values()
            for entry in versions.values()
            if entry.model is not None
            and entry.model.drift_monitor is not None
            and entry.model.drift_monitor.samples is not None
        ]
        if kept:
            await self._thread_pool.call(_answer_requests, kept)


def _answer_requests(kept: Sequence[SampleBuffer]) -> None:
    for samples in kept:
        samples.answer_request()

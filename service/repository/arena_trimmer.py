"""Memory that large batches left behind, given back.

ONNX Runtime's CPU arena keeps all that it ever had: a batch of 64 pictures left 780 MB behind in a DenseNet-121 whose
single pictures need 20. So every `INTERVAL_S` each model is looked at. One whose runs of the last interval were all of
a lower power of two in rows than the largest since its memory was given back, or which did not run at all, gives it
back again. The next large batch takes it anew, which costs it some milliseconds.

What the batches were like is read from the sums that are kept anyway: the way of a request knows nothing of this.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.repository.loaded_model import Model
from normfold.service.repository.repository import Repository
from normfold.service.runtime.providers.table import CPU

logger = logging.getLogger(__name__)

INTERVAL_S = 10.0


class _Record:
    """What was seen of one model.

    Attributes:
        counts: runs by rows, as the histogram had them at the last look.
        held: the histogram's highest bound (its place) among the runs since memory was given back; -1: no run. At
            first above all: while it was loaded, larger batches may have been tried than it will ever run.
    """

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.held = buckets

    def note(self, counts: Sequence[int]) -> bool:
        """Take note of the runs up to now; return whether memory should be given back."""
        grown = [place for place, (now, before) in enumerate(zip(counts, self.counts, strict=True)) if now > before]
        self.counts, largest = list(counts), max(grown, default=-1)
        if largest < self.held:
            self.held = -1
            return True
        self.held = max(self.held, largest)
        return False


class ArenaTrimmer:
    """Looks at all models of a repository."""

    def __init__(self, repository: Repository, workers: ThreadPool) -> None:
        self._repository, self._workers = repository, workers
        self._records: WeakKeyDictionary[Model, _Record] = WeakKeyDictionary()

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.look()

    async def look(self) -> int:
        """Look once; return how many models gave memory back."""
        models = [
            entry.model
            for versions in self._repository.entries.values()
            for entry in versions.values()
            if entry.model is not None and entry.model.session.provider == CPU
        ]
        return sum([await self._look_at(model) for model in models])

    async def _look_at(self, model: Model) -> bool:
        counts = model.stats.run_rows.counts
        record = self._records.setdefault(model, _Record(len(counts)))
        if not record.note(counts):
            return False
        try:
            with model:  # it is not closed meanwhile
                await self._workers.call(model.session.give_back_memory)
        except Exception:
            logger.exception("%s/%d could not give memory back.", model.name, model.version)
            return False
        logger.debug("%s/%d gave memory back.", model.name, model.version)
        return True

"""Release the memory that large batches leave in ONNX Runtime's CPU arena.

The arena keeps its peak: after a batch of 64 images it held 780 MB for a DenseNet-121 whose single images need 20.
So every `INTERVAL_S` each model is checked. The arena is shrunk if all runs of the last interval were in a lower bucket
of the histogram of batch sizes (powers of two) than the largest run since it was last shrunk, or if there were none.
The next large batch allocates again, which costs it some milliseconds.

Batch sizes are read from the sums that metrics use: the request path does nothing for this.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from normfold.service.background import ErrorLog, run_forever
from normfold.service.batching.thread_pool import ThreadPool
from normfold.service.repository.loaded_model import Model
from normfold.service.repository.repository import Repository
from normfold.service.runtime.providers.table import CPU

logger = logging.getLogger(__name__)

INTERVAL_S = 10.0


class _History:
    """The batch sizes of one model.

    Attributes:
        counts: of the histogram of batch sizes, at the last check.
        peak: index of the highest bucket with a run since the arena was shrunk; -1 without one. At first above all
            buckets: the warm-up may have run larger batches than requests ever will.
    """

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.peak = buckets

    def update(self, counts: Sequence[int]) -> bool:
        """Add the runs since the last check; return whether the arena should be shrunk."""
        grown = [index for index, (now, before) in enumerate(zip(counts, self.counts, strict=True)) if now > before]
        self.counts, highest = list(counts), max(grown, default=-1)
        if highest < self.peak:
            self.peak = -1
            return True
        self.peak = max(self.peak, highest)
        return False


class ArenaTrimmer:
    """Shrinks the arenas of all models of a repository that run on the CPU."""

    def __init__(self, repository: Repository, thread_pool: ThreadPool) -> None:
        self._repository, self._thread_pool = repository, thread_pool
        self._histories: WeakKeyDictionary[Model, _History] = WeakKeyDictionary()

    async def run(self) -> None:
        """Check every INTERVAL_S, until cancelled."""
        await run_forever(ErrorLog("The memory of large batches cannot be freed"), self.check, INTERVAL_S)

    async def check(self) -> int:
        """Check once; return the number of arenas that were shrunk."""
        models = [
            entry.model
            for versions in self._repository.entries.values()
            for entry in versions.values()
            if entry.model is not None and entry.model.session.provider == CPU
        ]
        return sum([await self._check_model(model) for model in models])

    async def _check_model(self, model: Model) -> bool:
        counts = model.stats.batch_rows.counts
        history = self._histories.setdefault(model, _History(len(counts)))
        if not history.update(counts):
            return False
        try:
            with model:  # so that it is not closed meanwhile
                await self._thread_pool.call(model.session.shrink_arena)
        except Exception:
            logger.exception("The arena of %s/%d could not be shrunk.", model.name, model.version)
            return False
        logger.debug("The arena of %s/%d was shrunk.", model.name, model.version)
        return True

"""One loaded version of a model, and how tensors go through it.

Routes make a job and run it; they know neither threads nor ONNX Runtime.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import prod
from time import perf_counter

from normfold.contract.manifest import Manifest
from normfold.service.batching.batch import QueuedRequest, Results
from normfold.service.batching.batcher import Batcher
from normfold.service.batching.client import Client
from normfold.service.codec.json_tensors import DTYPES
from normfold.service.codec.signature import ModelSignature
from normfold.service.drift.monitor import DriftMonitor
from normfold.service.errors import ClientDisconnectedError, InvalidRequestError, ResponseTooLargeError
from normfold.service.observability.request_trace import ModelStats, RequestTrace
from normfold.service.runtime.session import Array, Session


def row_bytes(manifest: Manifest) -> dict[str, int]:
    """Return the bytes of a row of each output, or of the whole where rows are not independent; a free size as 1."""
    return {
        spec.name: DTYPES[spec.datatype].itemsize
        * prod(1 if size == -1 else size for size in spec.shape[1 if manifest.batchable else 0 :])
        for spec in manifest.outputs
    }


@dataclass(frozen=True)
class Timeouts:
    """How long a request may take, in seconds: what it gets without a wish, and the most that it can wish for."""

    usual_s: float = 30.0
    longest_s: float = 300.0

    def deadline(self, wish_s: float | None) -> float:
        """Return the deadline on the clock of perf_counter."""
        return perf_counter() + (self.usual_s if wish_s is None else min(wish_s, self.longest_s))


@dataclass(eq=False)
class Model:
    """A version of a model that is loaded, warmed and can answer.

    Attributes:
        stats: the sums of its runs.
        max_response_bytes: more than that is not even run.
        watch: looks at a sample of what it is asked; None if nobody does.
        in_use: requests that were given this version and are not answered yet; it is not closed under them.
    """

    manifest: Manifest
    session: Session
    batcher: Batcher
    timeouts: Timeouts = Timeouts()
    stats: ModelStats = field(default_factory=ModelStats)
    max_response_bytes: int = 2**30
    watch: DriftMonitor | None = None
    in_use: int = 0

    def __enter__(self) -> Model:
        """Begin to use it."""
        self.in_use += 1
        return self

    def __exit__(self, *_: object) -> None:
        """End its use."""
        self.in_use -= 1

    @property
    def is_idle(self) -> bool:
        """Whether nobody needs it."""
        return not self.in_use and self.batcher.is_idle

    @property
    def name(self) -> str:
        """The folder's name, which clients address."""
        return self.manifest.name

    @property
    def version(self) -> int:
        """The folder's version."""
        return self.manifest.version

    def job(
        self,
        tensors: Mapping[str, Array],
        outputs: Sequence[str],
        timeout_s: float | None = None,
        urgent: bool = False,
    ) -> QueuedRequest:
        """Make a job of tensors in the datatypes and shapes that the manifest declares.

        Raises:
            InvalidRequestError: inputs of a batchable model disagree in their number of rows.
            ResponseTooLargeError: as many rows give too much.
        """
        shapes = tuple(array.shape[1:] for array in tensors.values()) if self.has_free_sizes else ()
        job = QueuedRequest(
            tensors, self._count_rows(tensors), outputs, self.timeouts.deadline(timeout_s), urgent, shapes
        )
        if job.weight > self._rows_within_limit:
            bytes_of = row_bytes(self.manifest)
            size = job.weight * sum(bytes_of[name] for name in outputs)
            if size > self.max_response_bytes:
                raise ResponseTooLargeError(size, self.max_response_bytes)
        return job

    @cached_property
    def _rows_within_limit(self) -> int:
        """Rows whose outputs, all of them, are within the limit."""
        return self.max_response_bytes // max(1, sum(row_bytes(self.manifest).values()))

    @cached_property
    def ports(self) -> ModelSignature:
        """What it takes and gives, laid out for reading requests."""
        return ModelSignature(self.manifest.inputs, self.manifest.outputs)

    @cached_property
    def has_free_sizes(self) -> bool:
        """Whether a size of an input is free besides the rows."""
        return any(-1 in spec.shape[1:] for spec in self.manifest.inputs)

    def run(self, job: QueuedRequest, client: Client | None = None) -> asyncio.Future[Results]:
        """Queue a job; if the client leaves before it is done, it is abandoned.

        Returns:
            Output name to array, as the job orders them; or DeadlineError (its time was up), ClientDisconnectedError,
            InvalidRequestError (ONNX Runtime refused the tensors), RunError (the network failed).

        Raises:
            QueueFullError: no room.
            ClientDisconnectedError: the client is gone already.
        """
        _require_client(client)
        future = self.batcher.submit(job)
        self._accepted(job, client)
        return future

    def enqueue(self, job: QueuedRequest, client: Client | None = None) -> None:
        """Queue a job with a future, as `run` does.

        Raises:
            QueueFullError: no room.
            ClientDisconnectedError: the client is gone already.
        """
        _require_client(client)
        self.batcher.enqueue(job)
        self._accepted(job, client)

    def close(self) -> None:
        """End its queue; it has been let go. Called on the event loop, before `keep`."""
        self.batcher.close()
        if self.watch is not None:
            self.watch.close()

    def keep(self) -> None:
        """Write down what was seen of its inputs; may take a while."""
        if self.watch is not None:
            self.watch.keep()

    def _accepted(self, job: QueuedRequest, client: Client | None) -> None:
        """Abandon a job when its client leaves; and look at its tensors, if it is time to."""
        if client is not None:
            client.on_disconnect = partial(self.batcher.abandon, job)
        if self.watch is not None:
            self.watch.offer(job.tensors, job.queued_at)

    async def infer(
        self,
        tensors: Mapping[str, Array],
        outputs: Sequence[str],
        phases: RequestTrace | None = None,
        client: Client | None = None,
    ) -> Results:
        """Run tensors with the usual deadline: `job` and `run` in one.

        Args:
            tensors: in the datatypes and shapes that the manifest declares.
            outputs: those to compute.
            phases: of the request, which gets the job; one that runs several has them as if they were one that was cut.
            client: waits for the results; a disconnect cancels them.

        Raises:
            as `job` and `run`.
        """
        job = self.job(tensors, outputs)
        if phases is None:
            return await self.run(job, client)
        before, phases.job = phases.job, phases.job or job
        results = await self.run(job, client)
        phases.job = job if before is None else before.followed_by(job)
        return results

    def _count_rows(self, tensors: Mapping[str, Array]) -> int | None:
        """Return the number of rows, which all inputs of a batchable model share; None if it runs alone."""
        if not self.manifest.batchable:
            return None
        rows = -1
        for array in tensors.values():
            if rows not in (-1, array.shape[0]):
                counts = {name: array.shape[0] for name, array in tensors.items()}
                raise InvalidRequestError(f"The inputs differ in their number of rows: {counts}.")
            rows = array.shape[0]
        return rows if rows > 0 else None


def _require_client(client: Client | None) -> None:
    if client is not None and client.is_disconnected:
        raise ClientDisconnectedError

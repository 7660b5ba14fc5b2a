"""One loaded version of a model: makes queued requests of tensors and puts them into its queue.

Callers know neither threads nor ONNX Runtime.
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
from normfold.service.batching.request_connection import RequestConnection
from normfold.service.codec.json_tensors import DTYPES
from normfold.service.codec.signature import ModelSignature
from normfold.service.drift.monitor import DriftMonitor
from normfold.service.errors import ClientDisconnectedError, InvalidRequestError, ResponseTooLargeError
from normfold.service.observability.request_trace import RequestTrace
from normfold.service.observability.stats import ModelStats
from normfold.service.runtime.session import Array, Session
from normfold.service.runtime.tuning.report import Tuning


def row_bytes(manifest: Manifest) -> dict[str, int]:
    """Return the bytes of a row of each output, of the whole output if rows are not independent; a free size as 1."""
    return {
        spec.name: DTYPES[spec.datatype].itemsize
        * prod(1 if size == -1 else size for size in spec.shape[1 if manifest.batchable else 0 :])
        for spec in manifest.outputs
    }


@dataclass(frozen=True)
class Timeouts:
    """Timeouts of requests, for queue and run together.

    Attributes:
        default_s: of a request that names none.
        max_s: that a request may name.
    """

    default_s: float = 30.0
    max_s: float = 300.0

    def deadline(self, timeout_s: float | None) -> float:
        """Return the deadline of a request that names a timeout, or none; on the clock of perf_counter."""
        return perf_counter() + (self.default_s if timeout_s is None else min(timeout_s, self.max_s))


@dataclass(eq=False)
class Model:
    """A version of a model that is loaded, warmed up and ready.

    Attributes:
        stats: the sums of its runs and requests.
        max_response_bytes: a request with a larger response is not run.
        drift_monitor: samples its inputs; None if drift is not monitored.
        fused_sqnr_db: of an int8 network that was checked on this processor; None for others.
        tuning: options and CUDA graphs that were tried on a GPU; empty on the CPU.
        in_use: number of requests that hold it; it is not closed before they have ended.
    """

    manifest: Manifest
    session: Session
    batcher: Batcher
    timeouts: Timeouts = Timeouts()
    stats: ModelStats = field(default_factory=ModelStats)
    max_response_bytes: int = 2**30
    drift_monitor: DriftMonitor | None = None
    fused_sqnr_db: float | None = None
    tuning: Tuning = field(default_factory=Tuning)
    in_use: int = 0

    def __enter__(self) -> Model:
        """Hold it."""
        self.in_use += 1
        return self

    def __exit__(self, *_: object) -> None:
        """Release it."""
        self.in_use -= 1

    @property
    def is_idle(self) -> bool:
        """Whether no request holds it and nothing is queued or runs."""
        return not self.in_use and self.batcher.is_idle

    @property
    def name(self) -> str:
        """Name of the model, which clients address."""
        return self.manifest.name

    @property
    def version(self) -> int:
        """Number of the version."""
        return self.manifest.version

    @cached_property
    def signature(self) -> ModelSignature:
        """Its inputs and outputs, arranged for decoding requests."""
        return ModelSignature(self.manifest.inputs, self.manifest.outputs)

    @cached_property
    def has_free_sizes(self) -> bool:
        """Whether an input has a free size besides the rows."""
        return any(-1 in spec.shape[1:] for spec in self.manifest.inputs)

    @cached_property
    def _max_rows(self) -> int:
        """Rows whose outputs together are within `max_response_bytes`."""
        return self.max_response_bytes // max(1, sum(row_bytes(self.manifest).values()))

    def make_request(
        self,
        tensors: Mapping[str, Array],
        outputs: Sequence[str],
        timeout_s: float | None = None,
        urgent: bool = False,
    ) -> QueuedRequest:
        """Make a request for the queue.

        Args:
            tensors: in the datatypes and shapes of the manifest.
            outputs: names of those to compute.
            timeout_s: that the client named.
            urgent: go before requests that are not.

        Raises:
            InvalidRequestError: the inputs of a batchable model differ in their number of rows.
            ResponseTooLargeError: so many rows would give more than `max_response_bytes`.
        """
        shapes = tuple(array.shape[1:] for array in tensors.values()) if self.has_free_sizes else ()
        deadline = self.timeouts.deadline(timeout_s)
        rows = self._count_rows(tensors)
        request = QueuedRequest(tensors, rows or 1, outputs, deadline, urgent, shapes, rows is None)
        if request.rows > self._max_rows:
            bytes_of = row_bytes(self.manifest)
            size = request.rows * sum(bytes_of[name] for name in outputs)
            if size > self.max_response_bytes:
                raise ResponseTooLargeError(size, self.max_response_bytes)
        return request

    def submit(self, request: QueuedRequest, connection: RequestConnection | None = None) -> asyncio.Future[Results]:
        """Give a request a future, and `enqueue` it.

        Returns:
            Output name to array; or DeadlineError (its deadline passed), ClientDisconnectedError, InvalidRequestError
            (ONNX Runtime rejected the tensors), RunError (the network failed), UnloadedError.

        Raises:
            QueueFullError: the queue is full.
            ClientDisconnectedError: the client has disconnected already.
        """
        request.future = future = asyncio.get_running_loop().create_future()
        self.enqueue(request, connection)
        return future

    def enqueue(self, request: QueuedRequest, connection: RequestConnection | None = None) -> None:
        """Queue a request that has a future; it is cancelled if its client disconnects.

        The drift monitor is offered its tensors.

        Raises:
            QueueFullError: the queue is full.
            ClientDisconnectedError: the client has disconnected already.
        """
        if connection is not None and connection.is_disconnected:
            raise ClientDisconnectedError
        self.batcher.enqueue(request)
        if connection is not None:
            connection.on_disconnect = partial(self.batcher.cancel, request)
        if self.drift_monitor is not None:
            self.drift_monitor.offer(request.tensors, request.queued_at)

    async def infer(
        self,
        tensors: Mapping[str, Array],
        outputs: Sequence[str],
        trace: RequestTrace | None = None,
        connection: RequestConnection | None = None,
    ) -> Results:
        """Run tensors with the default timeout: `make_request` and `submit` in one.

        Args:
            tensors: in the datatypes and shapes of the manifest.
            outputs: names of those to compute.
            trace: gets the queued request; of several for one HTTP request, their times together.
            connection: on which the client waits for the results; a disconnect cancels the request.

        Returns:
            Output name to array.

        Raises:
            The errors of `make_request` and `submit`.
        """
        request = self.make_request(tensors, outputs)
        if trace is None:
            return await self.submit(request, connection)
        before, trace.queued_request = trace.queued_request, trace.queued_request or request
        results = await self.submit(request, connection)
        trace.queued_request = request if before is None else before.followed_by(request)
        return results

    def close(self) -> None:
        """Fail what is queued and stop sampling; called on the event loop, before `save_drift`."""
        self.batcher.close()
        if self.drift_monitor is not None:
            self.drift_monitor.close()

    def save_drift(self) -> None:
        """Save the state of its drift monitor; it may take long."""
        if self.drift_monitor is not None:
            self.drift_monitor.save_and_close()

    def _count_rows(self, tensors: Mapping[str, Array]) -> int | None:
        """Return the number of rows, equal in all inputs of a batchable model; None if the request runs alone."""
        if not self.manifest.batchable:
            return None
        rows = -1
        for array in tensors.values():
            if rows not in (-1, array.shape[0]):
                counts = {name: array.shape[0] for name, array in tensors.items()}
                raise InvalidRequestError(f"The inputs differ in their number of rows: {counts}.")
            rows = array.shape[0]
        return rows if rows > 0 else None

"""The steps of one infer request: admit, decode, enqueue, encode, compress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from normfold.contract.errors import NormfoldError
from normfold.contract.manifest import Manifest
from normfold.service.batching.batch import Future, Results
from normfold.service.batching.request_connection import RequestConnection
from normfold.service.batching.thread_pool import INLINE_BYTES, ThreadPool
from normfold.service.codec.compression import choose_encoding, compress, decompress, read_encoding
from normfold.service.codec.headers import Headers, read_json_length
from normfold.service.codec.json_tensors import Array
from normfold.service.codec.request import (
    InferRequest,
    decode_raw_tensor,
    decode_request,
    parse_body,
    parse_object,
    read_id,
)
from normfold.service.codec.response import InferResponse, encode_response
from normfold.service.codec.signature import ModelSignature, OutputRequest
from normfold.service.errors import InvalidRequestError
from normfold.service.inference.byte_budget import Reserve
from normfold.service.inference.large_responses import LargeResponses
from normfold.service.inference.model_ref import ModelRef
from normfold.service.inference.observers import AnswerObservers
from normfold.service.inference.response import Response, are_large, to_compressed_response, to_response
from normfold.service.inference.steps import admit, choose_version, fail
from normfold.service.observability.request_trace import RequestTrace
from normfold.service.repository.loaded_model import Model
from normfold.service.repository.repository import Repository

Encoder = Callable[[Manifest, Sequence[OutputRequest], Mapping[str, Array], str | None], InferResponse]
"""Encodes results for a protocol: `encode_response` for HTTP."""


@dataclass(frozen=True, slots=True)
class InferResources:
    """Resources that all infer requests share.

    Attributes:
        repository: finds models.
        thread_pool: decodes and encodes large bodies.
        large_responses: encodes large responses within their byte budget.
        max_body_bytes: limit on a body, before and after decompression.
        observers: see the answers.
    """

    repository: Repository
    thread_pool: ThreadPool
    large_responses: LargeResponses
    max_body_bytes: int
    observers: AnswerObservers


class InferCall:
    """One infer request on its way from headers to response.

    The steps are called in this order: `admit`, `decode` or `decode_async`, `enqueue` or `run`, `encode` or
    `encode_async`; `fail` in place of the rest when one raises; `close` at the end in any case. A protocol with other
    messages than HTTP's decodes by itself and calls `accept`, and takes the results from `encode_results` or
    `encode_results_async`.

    Args:
        resources: shared by all requests.
        headers: the request's.
        trace: the request's; each step notes there what it learns, and when it was done.
        encoder: of the protocol; None for HTTP's.
    """

    __slots__ = (
        "_encoder",
        "_held_bytes",
        "_model",
        "_names_version",
        "_request",
        "_resources",
        "_uses_model",
        "headers",
        "is_admitted",
        "json_length",
        "trace",
    )

    _model: Model
    _request: InferRequest

    def __init__(
        self, resources: InferResources, headers: Headers, trace: RequestTrace, encoder: Encoder | None = None
    ) -> None:
        self._resources, self.headers, self.trace, self._encoder = resources, headers, trace, encoder or encode_response
        self._held_bytes = 0
        self.json_length: int | None = None
        self.is_admitted = self._uses_model = self._names_version = False

    def admit(self, reference: ModelRef) -> None:
        """Find the model, and check by the headers alone that the request can be taken; the body is not read.

        Raises:
            UnknownModelError, ModelUnavailableError: no model can run it.
            QueueFullError: the model's queue is full.
            InvalidRequestError: the declared length of the JSON is not a length.
        """
        model = admit(self._resources.repository, reference, self.trace)
        self.json_length = read_json_length(self.headers)
        model.in_use += 1
        self._model, self.is_admitted, self._uses_model = model, True, True
        self._names_version = reference.version is not None

    def read_id(self, body: memoryview) -> None:
        """Read the id from the body of a request that was not admitted, so that the error names it."""
        with suppress(InvalidRequestError):
            self.trace.client_request_id = read_id(parse_object(body[: read_json_length(self.headers)]))

    def decode(self, body: memoryview) -> None:
        """Decode a body that is not compressed.

        Raises:
            InvalidRequestError: it is not an infer request, or does not fit the model.
        """
        self.accept(decode_body(body, self.json_length, self._model.signature, self.trace))

    @property
    def signature(self) -> ModelSignature:
        """Inputs and outputs of the model of an admitted request."""
        return self._model.signature

    def accept(self, request: InferRequest) -> None:
        """Take the decoded request."""
        self._request, self.trace.decoded = request, perf_counter()

    async def decode_async(self, body: memoryview, reserve: Reserve) -> None:
        """Decompress and decode a body, a large one in a thread.

        Args:
            body: as received.
            reserve: as that of `decompress`.

        Raises:
            InvalidRequestError: as `decode`; or the body is not in its Content-Encoding.
            ContentEncodingError: that is not supported.
            BodyTooLargeError: the decompressed body is over the limit.
            BodyBudgetError: `reserve` refused its bytes.
        """
        resources, json_length = self._resources, self.json_length
        if (encoding := read_encoding(self.headers)) is not None:
            limit = resources.max_body_bytes
            body = await resources.thread_pool.parse(4 * len(body), decompress, body, encoding, limit, reserve)
        has_text = self._model.signature.has_text_input
        is_small_json = json_length is not None and json_length <= INLINE_BYTES and not has_text
        if len(body) <= INLINE_BYTES or is_small_json:  # binary tensors are not copied, however large
            self.decode(body)
        else:
            await resources.thread_pool.call(self.decode, body)

    def enqueue(self, connection: RequestConnection | None, future: Future) -> None:
        """Put the decoded tensors into the queue of the model, or of its canary; the batcher sets the future.

        Raises:
            QueueFullError: the queue has no capacity for the rows.
            ResponseTooLargeError: the outputs of so many rows are over the limit on responses.
            ClientDisconnectedError: the client has disconnected.
            UnloadedError: the model was unloaded.
        """
        request, rollouts = self._request, self._resources.observers.rollouts
        if rollouts.by_model and not self._names_version:
            self._use(choose_version(rollouts, self._model, self.trace))
        queued = self._model.make_request(request.tensors, request.output_names, request.timeout_s, request.urgent)
        queued.future, self.trace.queued_request = future, queued
        try:
            self._model.enqueue(queued, connection)
        except NormfoldError:
            queued.future = None  # the future may refer to this call: without it they form no reference cycle
            raise

    async def run(self, connection: RequestConnection | None) -> Results:
        """Enqueue, and wait for the results.

        Raises:
            As `enqueue`; DeadlineError, RunError and InvalidRequestError from the run.
        """
        future: asyncio.Future[Results] = asyncio.get_running_loop().create_future()
        self.enqueue(connection, future)
        return await future

    def encode(self, results: Results) -> Response:
        """Encode results that are not large, and compress them as the client accepts; on the event loop.

        Raises:
            UnwritableOutputError: an output has NaN or Infinity, which JSON cannot carry.
        """
        encoded = self.encode_results(results)
        nbytes = encoded.size
        if encoding := choose_encoding(self.headers, nbytes):
            return to_compressed_response(encoded, self.trace, encoding, compress(encoded.pieces, encoding))
        return to_response(encoded, self.trace, nbytes)

    async def encode_async(self, results: Results) -> Response:
        """Encode and compress results, large ones in a thread and within the byte budget until `close`.

        Raises:
            As `encode`; ResponseTooLargeError and ResponseBudgetError: over the byte budget.
        """
        if not are_large(results):
            return self.encode(results)
        encoded = await self.encode_results_async(results)
        nbytes = encoded.size
        if encoding := choose_encoding(self.headers, nbytes):
            compressed = await self._resources.thread_pool.call(compress, encoded.pieces, encoding)
            return to_compressed_response(encoded, self.trace, encoding, compressed)
        return to_response(encoded, self.trace, nbytes)

    def encode_results(self, results: Results) -> InferResponse:
        """Encode results that are not large; on the event loop.

        Raises:
            UnwritableOutputError: an output has values that the protocol cannot carry.
        """
        manifest, outputs = self._model.manifest, self._request.outputs
        encoded = self._encoder(manifest, outputs, results, self.trace.client_request_id)
        self._note_encoded(results)
        return encoded

    async def encode_results_async(self, results: Results) -> InferResponse:
        """Encode results, large ones in a thread and within the byte budget until `close`.

        Raises:
            As `encode_results`; ResponseTooLargeError and ResponseBudgetError: over the byte budget.
        """
        if not are_large(results):
            return self.encode_results(results)
        large, manifest, outputs = self._resources.large_responses, self._model.manifest, self._request.outputs
        encode = partial(self._encoder, manifest, outputs, results, self.trace.client_request_id)
        encoded, self._held_bytes = await large.encode(encode, sum(array.nbytes for array in results.values()))
        self._note_encoded(results)
        return encoded

    def fail(self, error: Exception) -> Response:
        """Return the response to an error of any step."""
        return fail(self.trace, error)

    def close(self) -> None:
        """Release the model and the bytes of a large response: the client has read it, or has disconnected."""
        if self._uses_model:
            self._uses_model = False
            self._model.in_use -= 1
        if self._held_bytes:
            self._resources.large_responses.release(self._held_bytes)
            self._held_bytes = 0

    def _use(self, model: Model) -> None:
        """Use another version instead of the one that was found first."""
        self._model.in_use -= 1
        model.in_use += 1
        self._model = model

    def _note_encoded(self, results: Results) -> None:
        self.trace.status, self.trace.encoded = 200, perf_counter()
        self._uses_model = False
        self._model.in_use -= 1  # a client that reads slowly does not keep it from being unloaded
        observers = self._resources.observers
        if observers.payload_log is not None or observers.rollouts.by_model:
            request = self._request
            observers.answered(
                self.trace,
                self._model,
                request.tensors,
                {name: results[name] for name in request.output_names},
                names_version=self._names_version,
                parameters=request.parameters,
            )


def decode_body(
    body: memoryview, json_length: int | None, signature: ModelSignature, trace: RequestTrace
) -> InferRequest:
    """Decode the body of an infer request; the trace gets its id, even if the rest is invalid.

    Args:
        body: not compressed.
        json_length: bytes of JSON before binary tensors; None if the whole body is JSON, 0 if it is one tensor.
        signature: the model's.
        trace: the request's.

    Raises:
        InvalidRequestError: the body is not an infer request, or does not fit the model.
    """
    if json_length == 0:
        return decode_raw_tensor(body, signature)
    record, binary = parse_body(body, json_length)
    trace.client_request_id = read_id(record)
    return decode_request(record, signature, binary)

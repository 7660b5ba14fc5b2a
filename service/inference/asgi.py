"""The ASGI route of infer requests: steps that may wait for the body, for threads and for a slow reader.

A small request takes `service.inference.fast_path` instead, as a rule. `service.routes.infer` has the OpenAPI
description of both.
"""

from __future__ import annotations

from time import perf_counter

from normfold.service.batching.thread_pool import INLINE_BYTES
from normfold.service.codec.compression import read_encoding
from normfold.service.codec.headers import check_declared_length, declared_length
from normfold.service.errors import ClientDisconnectedError
from normfold.service.inference.infer_call import InferCall, InferResources
from normfold.service.inference.model_ref import ModelRef
from normfold.service.inference.transport import Exchange
from normfold.service.observability.request_trace import RequestTrace


class InferRoute:
    """Serves POST /v2/models/{model}[/versions/{version}]/infer.

    Args:
        resources: shared by all infer requests.
    """

    def __init__(self, resources: InferResources) -> None:
        self._resources = resources

    async def __call__(self, exchange: Exchange, trace: RequestTrace, reference: ModelRef) -> None:
        """Serve one request for a model.

        Raises:
            ClientDisconnectedError: the client disconnected, so that no response was sent, or only part of one.
        """
        call, limit = InferCall(self._resources, exchange.headers, trace), self._resources.max_body_bytes
        try:
            try:
                call.admit(reference)
                check_declared_length(exchange.headers, limit)
                read_encoding(exchange.headers)  # one that is not supported is answered before the body is read
                body = await exchange.read_body(limit, call.json_length or 0)
                trace.received = perf_counter()
                await call.decode_async(body, exchange.reservation.resize)
                del body  # the tensors hold it while the request is queued, and no longer
                response = await call.encode_async(await call.run(exchange.request_connection))
            except ClientDisconnectedError:
                raise
            except Exception as error:  # noqa: BLE001 -- every error gets its response
                if not call.is_admitted:
                    await _read_id(call, exchange)
                response = call.fail(error)
            await exchange.send(response)
        finally:
            call.close()


async def _read_id(call: InferCall, exchange: Exchange) -> None:
    """Read the id in the body of a request that was not admitted, if the body is small."""
    length = declared_length(exchange.headers)
    if length and length <= INLINE_BYTES and b"content-encoding" not in exchange.headers:
        call.read_id(await exchange.read_body(INLINE_BYTES))

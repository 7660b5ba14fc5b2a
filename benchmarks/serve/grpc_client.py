"""A client of gRPC that checks every response, beside that of HTTP in benchmarks.serve.client."""

from __future__ import annotations

import asyncio
import time
from itertools import count

import grpc
import numpy as np

from benchmarks.serve.client import CheckedRequest, ClientResult, is_cancelled, is_near
from benchmarks.serve.grpc_load import INFER
from normfold.service.grpc.protocol.inference_pb2 import ModelInferRequest, ModelInferResponse


async def call_on_channel(
    port: int,
    model: str,
    pool: list[CheckedRequest],
    seen: ClientResult,
    ids: count[int],
    stop: asyncio.Event,
    max_requests: int,
    cancels: bool = False,
) -> None:
    """Call one time after the other on a connection of its own, until `stop` is set or `ids` reaches `max_requests`.

    An error counts as a response with the status of its code. With `cancels`, some calls are cancelled once they are
    sent.
    """
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        infer = channel.unary_unary(INFER)
        while not stop.is_set() and (number := next(ids)) < max_requests:
            request = pool[number % len(pool)]
            began = time.perf_counter()
            call = infer(message(model, number, request))
            if cancels and is_cancelled(number):
                await asyncio.sleep(0)
                call.cancel()
                seen.cancelled += 1
                continue
            try:
                response = ModelInferResponse.FromString(await call)
            except grpc.aio.AioRpcError as error:
                seen.statuses[error.code().value[0]] += 1
                continue
            seen.times.append((began, time.perf_counter()))
            seen.statuses[200] += 1
            found = np.frombuffer(response.raw_output_contents[0], np.float32)
            if response.id != str(number) or not is_near(found, request):
                seen.wrong += 1


def message(model: str, number: int, request: CheckedRequest) -> bytes:
    """Return a serialized request, with raw contents."""
    found = ModelInferRequest(model_name=model, id=str(number), raw_input_contents=[request.rows.tobytes()])
    found.inputs.add(name=request.input_name, datatype="FP32", shape=request.rows.shape)
    return found.SerializeToString()

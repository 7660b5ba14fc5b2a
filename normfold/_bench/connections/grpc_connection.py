"""A connection of gRPC: a channel of its own for each, as several clients have."""

from __future__ import annotations

import asyncio
from time import perf_counter

import grpc

from normfold._bench.connections.connection import CONNECTION, TIMEOUT, Done, Failure
from normfold._bench.target import Target

INFER = "/inference.GRPCInferenceService/ModelInfer"

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # otherwise channels to one address share a connection
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

_REFUSALS = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE})
_CONNECT_TIMEOUT_S = 10.0


def channel_credentials(target: Target) -> grpc.ChannelCredentials:
    """Return the credentials of TLS."""
    return grpc.ssl_channel_credentials(None if target.ca is None else target.ca.read_bytes())


def call_metadata(target: Target) -> tuple[tuple[str, str], ...]:
    """Return the metadata of each call: the key."""
    return tuple((name.lower(), value) for name, value in target.headers().items())


class GrpcConnection:
    """A channel to a service; see `Connection`.

    Args:
        target: the service.
    """

    def __init__(self, target: Target) -> None:
        self._channel = (
            grpc.aio.secure_channel(target.authority, channel_credentials(target), _OPTIONS)
            if target.is_encrypted
            else grpc.aio.insecure_channel(target.authority, _OPTIONS)
        )
        self._infer = self._channel.unary_unary(INFER)
        self._metadata = call_metadata(target)
        self._call: asyncio.Task[None] | None = None
        self.started_s: float | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            OSError: there is no connection.
        """
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await self._channel.channel_ready()

    def send(self, message: bytes, done: Done) -> None:
        """Send a request."""
        self.started_s = perf_counter()
        self._done = done
        self._call = asyncio.get_running_loop().create_task(self._run(message))

    def give_up(self) -> None:
        """End the request as one that took too long: the call is cancelled."""
        self._cancel()
        self._finish(Failure(TIMEOUT, False, "no answer in time"))

    async def close(self) -> None:
        """Close the channel."""
        self.started_s = None
        self._cancel()
        await self._channel.close()

    async def _run(self, message: bytes) -> None:
        try:
            await self._infer(message, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            self._finish(self._to_failure(error))
            return
        self._finish(None)

    def _to_failure(self, error: grpc.aio.AioRpcError) -> Failure:
        """Return what an error is.

        A call without a connection ends with UNAVAILABLE too, by this side's own word: the channel is not ready then.
        """
        code, sentence = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE and self._channel.get_state() is not grpc.ChannelConnectivity.READY:
            return Failure(CONNECTION, False, sentence)
        return Failure(code.name, code in _REFUSALS, sentence)

    def _finish(self, failure: Failure | None) -> None:
        self.started_s = None
        self._done(failure)

    def _cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

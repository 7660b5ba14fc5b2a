"""One HTTP request and its response as the application sees them: ASGI's messages, or past them where possible."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from normfold.service.codec.headers import Headers
from normfold.service.error_responses import STATUS
from normfold.service.errors import BodyTooLargeError, ClientDisconnectedError
from normfold.service.http.asgi_cycle import CYCLE, THROUGH_ASGI, AsgiCycle
from normfold.service.http.body import drain, read_asgi_body, read_body
from normfold.service.http.cycle import MAX_WRITE_BYTES, split_chunks
from normfold.service.inference.byte_budget import BodyReservation
from normfold.service.inference.response import Response
from normfold.service.observability.request_trace import RequestTrace

_TOO_LARGE = STATUS[BodyTooLargeError]


class AsgiExchange:
    """A request and its response; its methods `receive` and `send_message` are ASGI's.

    Args:
        scope: ASGI's.
        receive: ASGI's.
        send: ASGI's.
        headers: the request's.
        trace: gets the status of the response.
        max_body_bytes: limit on the body that `receive` returns.
        reservation: of the body's bytes.

    Attributes:
        reservation: as given.
        request_connection: the request's `AsgiCycle`; None under another server than ours.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Headers,
        trace: RequestTrace,
        max_body_bytes: int,
        reservation: BodyReservation,
    ) -> None:
        self._receive, self._send, self._trace, self._max_body_bytes = receive, send, trace, max_body_bytes
        self._is_direct = THROUGH_ASGI not in scope and scope["method"] != "HEAD"
        self._received_bytes, self._more_body = 0, True
        self.headers, self.reservation = headers, reservation
        self.request_connection: AsgiCycle | None = scope.get(CYCLE)

    async def read_body(self, max_bytes: int, json_length: int = 0) -> memoryview:
        """Read the body, so that binary tensors after `json_length` bytes of JSON are aligned.

        Raises:
            BodyTooLargeError: it is over the limit; the rest is not read.
            BodyBudgetError: it does not fit beside other large bodies.
            ClientDisconnectedError: the client disconnected before its end.
        """
        reserve = self.reservation.grow
        if self.request_connection is not None:
            return await read_body(self.request_connection, self.headers, max_bytes, json_length, reserve)
        return await read_asgi_body(self._receive, max_bytes, json_length, reserve)

    async def receive(self) -> Message:
        """Return ASGI's next message.

        Raises:
            BodyTooLargeError: the body is over the limit; the rest is not read.
            BodyBudgetError: it does not fit beside other large bodies.
        """
        message = await self._receive()
        self._received_bytes += len(message.get("body", b""))
        self._more_body = message.get("more_body", False)
        if self._received_bytes > self._max_body_bytes:
            raise BodyTooLargeError(self._max_body_bytes)
        self.reservation.grow(self._received_bytes)
        return message

    async def send_message(self, message: Message) -> None:
        """Send one of ASGI's messages; the response gets the request's id.

        After a body that is too large, the rest of it is read before the response ends and the connection is closed.
        """
        if message["type"] == "http.response.start":
            self._trace.status = message["status"]
            MutableHeaders(scope=message)["X-Request-Id"] = self._trace.request_id
        elif self._more_body and self._trace.status == _TOO_LARGE and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await drain(self._receive)
            self._more_body = False
            message = {"type": "http.response.body"}
        await self._send(message)

    async def send(self, response: Response) -> None:
        """Send a whole response.

        Raises:
            ClientDisconnectedError: the client disconnected before the end of a large one.
        """
        status, headers, body = response
        if self.request_connection is None or not self._is_direct or status == _TOO_LARGE:
            await self.send_message({"type": "http.response.start", "status": status, "headers": headers})
            for chunk in split_chunks(body):
                await self.send_message({"type": "http.response.body", "body": chunk, "more_body": True})
                if self.request_connection is not None and self.request_connection.is_disconnected:
                    raise ClientDisconnectedError
            await self.send_message({"type": "http.response.body"})
        elif response.body_bytes <= MAX_WRITE_BYTES and not self.request_connection.connection.flow.is_writing_paused:
            self.request_connection.write_response(status, headers, body)
        else:
            await self.request_connection.write_chunks(status, headers, body)

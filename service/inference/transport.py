"""The part of a connection that an infer request uses; `service.http` implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from normfold.service.batching.request_connection import RequestConnection
from normfold.service.codec.binary_tensors import Piece
from normfold.service.codec.headers import HeaderFields, Headers
from normfold.service.inference.byte_budget import BodyReservation
from normfold.service.inference.response import Response


class Exchange(Protocol):
    """One HTTP request and its response; `service.http.asgi_exchange` implements it."""

    headers: Headers
    reservation: BodyReservation

    @property
    def request_connection(self) -> RequestConnection | None:
        """The request's connection; None if the server does not report when the client disconnects."""

    async def read_body(self, max_bytes: int, json_length: int = 0) -> memoryview:
        """Read the body, so that tensors after `json_length` bytes of JSON are aligned.

        Raises:
            BodyTooLargeError: it is over the limit.
            BodyBudgetError: it does not fit beside other large bodies.
            ClientDisconnectedError: the client disconnected before its end.
        """

    async def send(self, response: Response) -> None:
        """Send the response.

        Raises:
            ClientDisconnectedError: the client disconnected before its end.
        """


class ResponseWriter(RequestConnection, Protocol):
    """The connection of a request, and how its response is written."""

    def write_response(self, status: int, headers: HeaderFields, body: Sequence[Piece]) -> None:
        """Write a whole response at once; nothing if the client has disconnected."""

    async def write_chunks(self, status: int, headers: HeaderFields, body: Sequence[Piece]) -> None:
        """Write a large response as fast as the client reads it.

        Raises:
            ClientDisconnectedError: the client disconnected before its end.
        """

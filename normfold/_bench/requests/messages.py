"""The bytes of requests: whole requests of HTTP/1.1 with their head, and messages of gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy.typing as npt

from normfold._bench.model import Model
from normfold._bench.target import Protocol, Target
from normfold._shared.http.infer_messages import write_infer_request
from normfold.errors import ArgumentError

Array = npt.NDArray[Any]


class Format(StrEnum):
    """Forms of tensors in HTTP."""

    BINARY = "binary"
    JSON = "json"


def choose_format(model: Model, target: Target, given: str | None) -> Format:
    """Return the form of tensors: as given; else bytes where the service takes them.

    Raises:
        ArgumentError: there is no such form; or JSON is given, and cannot carry an input, or the protocol is gRPC.
    """
    if given is not None and given not in list(Format):
        raise ArgumentError(f"`format` must be {' or '.join(Format)}, not {given!r}.")
    if given == Format.JSON and target.protocol is Protocol.GRPC:
        raise ArgumentError("`format` json is for HTTP; gRPC carries tensors as bytes.")
    form = Format(given) if given is not None else Format.BINARY if model.takes_binary else Format.JSON
    half = next((one.name for one in model.inputs if one.datatype == "FP16"), None)
    if form is Format.JSON and half is not None and target.protocol is Protocol.HTTP:
        who = "`format` json cannot carry" if given else "A service that takes no binary tensors cannot take"
        raise ArgumentError(f"{who} input {half!r}: the protocol has no FP16 in JSON.")
    return form


def write_message(model: Model, target: Target, tensors: Mapping[str, Array], form: Format) -> bytes:
    """Return the bytes of a request, to be sent again and again."""
    if target.protocol is Protocol.GRPC:
        from normfold._bench.requests.grpc_message import write_grpc_message

        return write_grpc_message(model, tensors)
    pieces, headers = write_infer_request(tensors, None, form is Format.BINARY)
    fields = {
        "Host": target.authority,
        "User-Agent": "normfold-bench",
        **target.headers(),
        **headers,
        "Content-Length": str(sum(map(len, pieces))),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    head = f"POST {target.prefix}{model.path}/infer HTTP/1.1\r\n{lines}\r\n"
    return b"".join((head.encode("latin-1"), *pieces))

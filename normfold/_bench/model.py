"""A model as its service describes it, by the routes or methods of the Open Inference Protocol alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from normfold._bench.target import Protocol, Target
from normfold._shared.http.connection_pool import ConnectionPool
from normfold._shared.http.response_error import to_response_error
from normfold.errors import ClientError

_BINARY = "binary_tensor_data"
"""The extension for tensors as bytes after the JSON."""


@dataclass(frozen=True)
class ModelInput:
    """One input.

    Attributes:
        name: of the input.
        datatype: by the protocol's names.
        shape: -1 is a free size.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """A model of a service.

    Attributes:
        name: of the model.
        version: as asked for; None for the one that the service chooses.
        inputs: in the service's order.
        takes_binary: the service takes tensors as bytes after the JSON.
    """

    name: str
    version: int | None
    inputs: tuple[ModelInput, ...]
    takes_binary: bool

    @property
    def path(self) -> str:
        """Path of the model in HTTP, below the prefix."""
        versioned = "" if self.version is None else f"/versions/{self.version}"
        return f"/v2/models/{quote(self.name, safe='')}{versioned}"


def read_model(target: Target, name: str, version: int | None, timeout_s: float) -> Model:
    """Ask a service for a model's inputs.

    Raises:
        UnreachableError: the service does not answer.
        ResponseError: it has no such model, or needs a key, or answers with another error.
        ClientError: its answer is not of the Open Inference Protocol.
    """
    if target.protocol is Protocol.GRPC:
        from normfold._bench.connections.grpc_metadata import read_inputs

        return Model(name, version, read_inputs(target, name, version, timeout_s), takes_binary=True)
    asked = Model(name, version, (), takes_binary=False)
    pool = ConnectionPool(target.http_url, target.headers(), timeout_s, target.ssl_context())
    try:
        inputs = _to_inputs(_get(pool, asked.path), name, target.url)
        return Model(name, version, inputs, _BINARY in _extensions(pool))
    finally:
        pool.close()


def _extensions(pool: ConnectionPool) -> list[str]:
    """Return the extensions of a service; none where it does not describe itself."""
    try:
        found = _get(pool, "/v2").get("extensions")
    except ClientError:
        return []
    return list(map(str, found)) if isinstance(found, list) else []


def _get(pool: ConnectionPool, path: str) -> Mapping[str, Any]:
    response = pool.request("GET", path)
    if response.status != 200:
        raise to_response_error(response)
    try:
        record = orjson.loads(response.body)
    except ValueError:
        record = None
    if not isinstance(record, Mapping):
        raise ClientError(f"{pool.url}{path} does not answer with a JSON object; is it the Open Inference Protocol?")
    return record


def _to_inputs(record: Mapping[str, Any], name: str, url: str) -> tuple[ModelInput, ...]:
    try:
        return tuple(
            ModelInput(str(one["name"]), str(one["datatype"]), tuple(int(size) for size in one["shape"]))
            for one in record["inputs"]
        )
    except (KeyError, TypeError, ValueError):
        raise ClientError(f"The service at {url} does not describe the inputs of the model {name!r}.") from None

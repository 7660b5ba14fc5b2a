"""A client of the service: numpy arrays in, numpy arrays out, over HTTP.

It uses `http.client`, so that it needs no package except numpy and orjson. Each request uses one connection from
a pool, so threads may share a client.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import numpy.typing as npt
import orjson

from normfold._shared.argument_checks import (
    NOT_NEGATIVE,
    POSITIVE,
    TEXT,
    VERSION,
    Kind,
    check,
    check_optional,
    whole_number,
)
from normfold._shared.http.connection_pool import ConnectionPool, Response
from normfold._shared.http.infer_messages import read_infer_response, write_infer_request
from normfold._shared.http.response_error import to_response_error
from normfold._shared.predictions import (
    ClassProbability,
    ImageInput,
    image_bytes,
    instances_json,
    to_prediction,
    warn_of_notes,
)
from normfold.errors import ResponseError, UnreachableError
from normfold.service.codec.binary_tensors import Piece

Array = npt.NDArray[Any]

URL = Kind("a string, such as 'http://127.0.0.1:8000'", lambda value: isinstance(value, str))
SSL_CONTEXT = Kind("an ssl.SSLContext", lambda value: isinstance(value, ssl.SSLContext))


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model of the service.

    Attributes:
        name: of the model.
        version: of the model; None where its versions cannot be listed.
        state: LOADING, READY or UNAVAILABLE.
        reason: why it is not ready; empty where it is.
        inputs: name to (datatype, shape), by the names of the Open Inference Protocol; -1 is a free size.
        outputs: in the same form.
        labels: of the classes, in the network's order; None if there are none.
    """

    name: str
    version: int | None
    state: str
    reason: str = ""
    inputs: Mapping[str, tuple[str, tuple[int, ...]]] | None = None
    outputs: Mapping[str, tuple[str, tuple[int, ...]]] | None = None
    labels: tuple[str, ...] | None = None


class Client:
    """A client of `normfold serve`, or of a service behind a proxy.

    Example:
        >>> import normfold
        >>> import numpy
        >>> images = numpy.zeros((2, 1, 8, 8), numpy.float32)  # (rows, channels, height, width), standardised
        >>> with normfold.Client("http://127.0.0.1:8000") as client:
        ...     logits = client.infer("digits", {"input": images})["logits"]

    Args:
        url: of the service, http or https.
        key: API key, sent with each request.
        timeout_s: seconds for connecting, and between two parts of a response.
        max_retries: how often a request that was answered 503 with Retry-After is sent again.
        max_retry_wait_s: total seconds that a request may wait for retries; a longer Retry-After is an error
            immediately.
        ssl_context: for https; without it the certificates that the system trusts.

    Raises:
        ArgumentError: an argument cannot be used, for example a `url` that is not of http or https.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 3,
        max_retry_wait_s: float = 30.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        check(URL, url=url)
        check_optional(TEXT, key=key)
        check(POSITIVE, timeout_s=timeout_s)
        check(whole_number(0), max_retries=max_retries)
        check(NOT_NEGATIVE, max_retry_wait_s=max_retry_wait_s)
        check_optional(SSL_CONTEXT, ssl_context=ssl_context)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._pool = ConnectionPool(url, headers, timeout_s, ssl_context)
        self.url = self._pool.url
        self._max_retries, self._max_retry_wait_s = max_retries, max_retry_wait_s

    def predict(self, model: str, rows: Any, *, version: int | None = None) -> list[Any]:
        """Predict from raw inputs, which the service preprocesses as the model was trained.

        Args:
            model: its name.
            rows: one raw input a row: pixels (rows, channels, height, width) or (rows, height, width) in the data's own
                units, table rows (rows, columns), or a list of objects by column. A model without preprocessing takes
                tensors.
            version: of the model; the highest that is ready without it.

        Returns:
            For each row a Prediction; where labels do not exclude each other a LabelsPrediction; of a regression a
            tuple of PredictedValue; of a model that gives a class to each pixel their numbers, (height, width), int64;
            of any other model the value of its one output, or the values of several by name.

        Raises:
            ArgumentError: an argument cannot be used.
            ResponseError: the service answered with an error.
            UnreachableError: it did not answer.

        Warns:
            UserWarning: a table's row has a value that the model knows nothing about, such as an unknown category.
        """
        headers = {"Content-Type": "application/json"}
        answer = self._ask("POST", self._path("v1", model, version, ":predict"), (instances_json(rows),), headers)
        record = orjson.loads(answer.body)
        warn_of_notes(record.get("notes", ()))
        return [to_prediction(one) for one in record["predictions"]]

    def classify(
        self, model: str, image: ImageInput, *, top: int = 5, version: int | None = None
    ) -> list[ClassProbability]:
        """Classify one image of any size.

        Args:
            model: its name.
            image: the bytes of a PNG or JPEG file, its path, or pixels: uint8, (height, width) or (height, width, 3).
            top: how many classes to return.
            version: of the model; the highest that is ready without it.

        Returns:
            The most probable classes, the highest first.

        Raises:
            ArgumentError: an argument cannot be used: the image cannot be read, or the array is none.
            ResponseError: the service answered with an error.
            UnreachableError: it did not answer.
        """
        check(whole_number(1), top=top)
        path = f"{self._path('v1', model, version, ':classify')}?top={int(top)}"
        headers = {"Content-Type": "application/octet-stream"}
        answer = orjson.loads(self._ask("POST", path, (image_bytes(image),), headers).body)
        return [ClassProbability(**one) for one in answer["classes"]]

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        outputs: Sequence[str] | None = None,
        version: int | None = None,
        binary: bool = True,
    ) -> dict[str, Array]:
        """Run tensors through a model as they are: the Open Inference Protocol's infer.

        Args:
            model: its name.
            inputs: name to array, in the datatype and shape that the model declares; texts as str.
            outputs: names of those to return; all without it.
            version: of the model; the highest that is ready without it.
            binary: send and ask for tensors as bytes after the JSON; otherwise JSON alone, which cannot carry FP16.

        Returns:
            Output name to array, in its datatype; BYTES as objects of str.

        Raises:
            ArgumentError: an argument cannot be used, or an array has a dtype that the protocol does not know.
            ResponseError: the service answered with an error.
            UnreachableError: it did not answer.
        """
        pieces, headers = write_infer_request(inputs, outputs, binary)
        response = self._ask("POST", self._path("v2", model, version, "/infer"), pieces, headers)
        return read_infer_response(response.headers, response.body)

    def models(self) -> list[ModelVersion]:
        """Return every version of every model that the service has, whatever its state.

        Raises:
            ResponseError: the service answered with an error.
            UnreachableError: it did not answer.
        """
        found = []
        for model in self._get_json("/v1/models")["models"]:
            if not model["versions"]:
                found.append(ModelVersion(model["name"], None, "UNAVAILABLE", model.get("reason", "")))
            found += [_model_version(model["name"], version) for version in model["versions"]]
        return found

    def versions(self, model: str) -> tuple[int, ...]:
        """Return the versions of a model that are ready, in ascending order.

        Raises:
            ResponseError: there is no such model (404), none of its versions is ready (503), or another error.
            UnreachableError: the service did not answer.
        """
        return tuple(map(int, self._get_json(self._path("v2", model, None, ""))["versions"]))

    def ready(self, model: str | None = None, *, version: int | None = None) -> bool:
        """Return whether the service, or a model, can answer; false too where there is no connection.

        Raises:
            ResponseError: an error other than 503 and, of a model, 404.
        """
        path = "/v2/health/ready" if model is None else self._path("v2", model, version, "/ready")
        try:
            self._ask("GET", path, max_retries=0)
        except UnreachableError:
            return False
        except ResponseError as error:
            if error.status == 503 or (error.status == 404 and model is not None):
                return False
            raise
        return True

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    @staticmethod
    def _path(protocol: str, model: str, version: int | None, suffix: str) -> str:
        check(TEXT, model=model)
        check_optional(VERSION, version=version)
        versioned = "" if version is None else f"/versions/{version}"
        return f"/{protocol}/models/{quote(model, safe='')}{versioned}{suffix}"

    def _get_json(self, path: str) -> Any:
        return orjson.loads(self._ask("GET", path).body)

    def _ask(
        self,
        method: str,
        path: str,
        pieces: Sequence[Piece] = (),
        headers: Mapping[str, str] | None = None,
        max_retries: int | None = None,
    ) -> Response:
        """Send a request, and again where it is answered with 503 and a Retry-After that is not too long."""
        left, waited_s = self._max_retries if max_retries is None else max_retries, 0.0
        while True:
            response = self._pool.request(method, path, pieces, headers)
            if response.status == 200:
                return response
            error = to_response_error(response)
            wait_s = error.retry_after_s
            if error.status != 503 or wait_s is None or not left or waited_s + wait_s > self._max_retry_wait_s:
                raise error
            time.sleep(wait_s)
            left, waited_s = left - 1, waited_s + wait_s


def _model_version(name: str, record: Mapping[str, Any]) -> ModelVersion:
    def tensors(field: str) -> dict[str, tuple[str, tuple[int, ...]]] | None:
        if field not in record:
            return None
        return {spec["name"]: (spec["datatype"], tuple(spec["shape"])) for spec in record[field]}

    labels = record.get("labels")
    return ModelVersion(
        name=name,
        version=int(record["version"]),
        state=record["state"],
        reason=record.get("reason", ""),
        inputs=tensors("inputs"),
        outputs=tensors("outputs"),
        labels=None if labels is None else tuple(labels),
    )

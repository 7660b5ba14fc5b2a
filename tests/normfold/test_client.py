"""`normfold.Client` against a real service, and against servers that answer as a service seldom does."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normfold
from normfold.contract.source_card import SourceCard
from normfold.errors import ArgumentError, ResponseError, UnreachableError
from normfold.service.auth.key_admin import create_key
from tests.support.bundles import DIGITS, LABELS, BundleWriter
from tests.support.service import Service, StartService
from tests.support.waiting import wait_for

PICTURES = np.arange(32, dtype=np.float64).reshape(2, 4, 4) % 17


@pytest.fixture
def service(bundles: BundleWriter, start: StartService) -> Service:
    """A service of two versions of a classifier, of rows, of two inputs, and of strings and half floats."""
    bundles.digits(1)
    bundles.digits(2, bias=1.0)
    bundles.rows()
    bundles.pair()
    for datatype in ("BYTES", "FP16", "FP32"):
        bundles.identity(datatype)
    return start(bundles.root)


@pytest.fixture
def client(service: Service) -> Iterator[normfold.Client]:
    """A client of it."""
    with normfold.Client(str(service.client.base_url)) as client:
        yield client


def expected_logits(pictures: np.ndarray, bias: float) -> np.ndarray:
    """Return the logits of `BundleWriter.digits`: the sums of three columns of standardised pixels, and the bias."""
    standardised = (pictures / DIGITS.value_max - DIGITS.mean[0]) / DIGITS.std[0]
    return standardised[:, :, :3].sum(axis=1) + bias


def expected_probabilities(pictures: np.ndarray, bias: float) -> np.ndarray:
    """Return the softmax of those."""
    powers = np.exp(expected_logits(pictures, bias))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("rows", [PICTURES, PICTURES.astype(np.float32), PICTURES.astype(np.int64), PICTURES.tolist()])
def test_predict_returns_a_prediction_a_row(client: normfold.Client, rows: Any) -> None:
    found = client.predict("digits", rows)

    wanted = expected_probabilities(PICTURES, 1.0)
    np.testing.assert_allclose([one.probabilities for one in found], wanted, rtol=1e-5)
    assert [one.label for one in found] == [LABELS[index] for index in wanted.argmax(axis=1)]
    assert [one.probability for one in found] == pytest.approx(wanted.max(axis=1), rel=1e-5)
    assert repr(found[0]) == f"Prediction({found[0].label!r}, {found[0].probability:.4f})"


def test_predict_takes_rows_that_are_not_contiguous(client: normfold.Client) -> None:
    turned = np.ascontiguousarray(PICTURES.transpose(0, 2, 1)).transpose(0, 2, 1)
    assert [one.index for one in client.predict("digits", turned)] == [
        one.index for one in client.predict("digits", PICTURES)
    ]


def test_predict_takes_objects_by_column(client: normfold.Client) -> None:
    [found] = client.predict("rows", [{"income": 1e9 + 5, "age": 50.0}])
    np.testing.assert_array_equal(found, [1.0, 1.0])


def test_predict_returns_several_outputs_by_name(client: normfold.Client) -> None:
    [found] = client.predict("pair", [{"count": [3, 4], "flag": True}])
    assert found["product"] == 7.0
    assert found["opposite"] == np.False_


def test_predict_rejects_what_json_cannot_hold(client: normfold.Client) -> None:
    with pytest.raises(ArgumentError, match="`rows` cannot be written as JSON"):
        client.predict("digits", [object()])


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("kind", ["array", "bytes", "path", "text"])
def test_classify_takes_pixels_bytes_and_paths(client: normfold.Client, tmp_path: Path, kind: str) -> None:
    pixels = (np.arange(16, dtype=np.uint8) * 15).reshape(4, 4)
    (tmp_path / "p.png").write_bytes(png(pixels))
    path = tmp_path / "p.png"
    given: Any = {"array": pixels, "bytes": png(pixels), "path": path, "text": str(path)}[kind]

    found = client.classify("digits", given, top=2)

    wanted = expected_probabilities(pixels[None] * (16 / 255), 1.0)[0]
    assert [one.index for one in found] == np.argsort(-wanted)[:2].tolist()
    assert [one.probability for one in found] == pytest.approx(np.sort(wanted)[::-1][:2], rel=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("none.png", "'none.png' cannot be read: No such file"),
        (np.zeros((4, 4)), "dtype float64 and shape .* is not an image"),
    ],
)
def test_classify_rejects_an_input_that_is_not_an_image(client: normfold.Client, given: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        client.classify("digits", given)


@pytest.mark.parametrize("binary", [True, False])
def test_infer_returns_arrays_by_output(client: normfold.Client, binary: bool) -> None:
    inputs = {"count": np.array([[1, 2], [3, 4]]), "flag": np.array([True, False])}

    found = client.infer("pair", inputs, binary=binary)

    assert {name: array.dtype for name, array in found.items()} == {"product": np.float64, "opposite": np.bool_}
    np.testing.assert_array_equal(found["product"], [3.0, 7.0])
    np.testing.assert_array_equal(found["opposite"], [False, True])


def test_infer_asks_for_the_named_outputs_alone(client: normfold.Client) -> None:
    inputs = {"count": np.array([[1, 2]]), "flag": np.array([True])}
    assert list(client.infer("pair", inputs, outputs=["opposite"])) == ["opposite"]


def test_infer_keeps_half_floats_and_not_finite_numbers(client: normfold.Client) -> None:
    array = np.array([[1.5, np.inf, -np.inf]], np.float16)
    found = client.infer("identity-fp16", {"input": array})["output"]
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("binary", [True, False])
def test_infer_sends_texts(client: normfold.Client, binary: bool) -> None:
    texts = np.array([["ä", "", "two words"]])
    assert client.infer("identity-bytes", {"input": texts}, binary=binary)["output"].tolist() == texts.tolist()


def test_infer_sends_large_tensors(client: normfold.Client) -> None:
    array = np.random.default_rng(0).standard_normal((1000, 1000), np.float32)
    np.testing.assert_array_equal(client.infer("identity-fp32", {"input": array})["output"], array)


def test_infer_sends_an_array_of_the_other_byte_order(client: normfold.Client) -> None:
    array = np.array([[1.0, 2.0]], ">f4")
    np.testing.assert_array_equal(client.infer("identity-fp32", {"input": array})["output"], array)


def test_infer_rejects_a_dtype_without_a_name_in_the_protocol(client: normfold.Client) -> None:
    with pytest.raises(ArgumentError, match="Input 'x' has the dtype complex128"):
        client.infer("digits", {"x": np.zeros(1, np.complex128)})


def test_version_is_asked_for(client: normfold.Client) -> None:
    pictures = np.zeros((1, 1, 4, 4), np.float32)
    assert client.infer("digits", {"input": pictures}, version=1)["logits"].tolist() == [[0.0, 0.0, 0.0]]
    assert client.infer("digits", {"input": pictures})["logits"].tolist() == [[1.0, 1.0, 1.0]]
    assert client.predict("digits", PICTURES, version=1)[0].index == client.predict("digits", PICTURES)[0].index
    assert client.versions("digits") == (1, 2)


def test_models_describe_every_version(client: normfold.Client) -> None:
    found = {(one.name, one.version): one for one in client.models()}
    assert found["digits", 1].state == "READY"
    assert found["digits", 1].inputs == {"input": ("FP32", (-1, 1, 4, 4))}
    assert found["digits", 2].outputs == {"logits": ("FP32", (-1, 3))}
    assert found["digits", 2].labels == LABELS
    assert found["pair", 1].labels is None


def test_models_say_why_one_is_not_ready(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits(1)
    (bundles.digits(2) / "model.onnx").write_bytes(b"")
    with normfold.Client(str(start(bundles.root).client.base_url)) as client:
        broken = next(one for one in client.models() if one.version == 2)
        assert broken.state == "UNAVAILABLE"
        assert "sha256 differs" in broken.reason
        assert client.ready("digits", version=1)
        assert not client.ready("digits", version=2)
        assert client.versions("digits") == (1,)


def test_ready_says_whether_the_service_or_a_model_can_answer(client: normfold.Client) -> None:
    assert client.ready()
    assert client.ready("digits")
    assert not client.ready("nothing")


def test_ready_is_false_where_nobody_listens() -> None:
    assert not normfold.Client("http://127.0.0.1:9").ready()


def test_error_has_status_and_the_sentence_of_the_service(client: normfold.Client) -> None:
    with pytest.raises(ResponseError, match="There is no model 'nothing'") as caught:
        client.predict("nothing", PICTURES)
    assert caught.value.status == 404
    assert caught.value.request_id

    with pytest.raises(ResponseError, match=r"Input 'input' has the shape \[2, 2\]; the model takes") as caught:
        client.infer("digits", {"input": np.zeros((2, 2), np.float32)})
    assert caught.value.status == 400


def test_model_name_is_quoted_in_the_path(client: normfold.Client) -> None:
    with pytest.raises(ResponseError, match="no") as caught:
        client.predict("a/../b?c", PICTURES)
    assert caught.value.status == 404


def test_key_opens_the_service(bundles: BundleWriter, start: StartService, tmp_path: Path) -> None:
    bundles.digits(1)
    _, key = create_key(tmp_path / "keys.json", "test", ["infer"])
    url = str(start(bundles.root, keys=tmp_path / "keys.json").client.base_url)
    with normfold.Client(url) as client:
        wait_for(client.ready)  # without a key the reason is not in the answer
        with pytest.raises(ResponseError, match="This needs a key") as caught:
            client.predict("digits", PICTURES)
    assert caught.value.status == 401
    with normfold.Client(url, key=key) as client:
        assert len(client.predict("digits", PICTURES)) == 2


def test_body_over_the_limit_is_an_error_with_its_status(bundles: BundleWriter, start: StartService) -> None:
    bundles.identity("FP32")
    url = str(start(bundles.root, max_body_bytes=100_000).client.base_url)
    with normfold.Client(url) as client, pytest.raises(ResponseError, match="over the limit") as caught:
        client.infer("identity-fp32", {"input": np.zeros((1000, 10_000), np.float32)})
    assert caught.value.status == 413


@pytest.mark.slow
def test_threads_share_a_client(client: normfold.Client) -> None:
    def ask(number: int) -> bool:
        array = np.full((1, 3), number, np.float32)
        return bool((client.infer("identity-fp32", {"input": array})["output"] == array).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(200)))


# Servers of a few lines, for what a service seldom answers.

Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def answering(*answers: Answer, hold: threading.Event | None = None) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """Serve the answers, one after the other, the last one for ever; yield the URL and (path, headers) of requests."""
    asked: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.path, self.headers))
            if hold is not None:
                hold.wait(20)
            status, headers, body = answers[min(len(asked), len(answers)) - 1]
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            with suppress(ConnectionError):  # the client has left, in the test of its timeout
                self.end_headers()
                self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 -- the base's

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        if hold is not None:
            hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


BUSY: Answer = (503, {"Retry-After": "1"}, b'{"error": "The queue is full."}')
DONE: Answer = (200, {}, json.dumps({"predictions": [1.0]}).encode())


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that a client waits; it does not wait for real."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def test_request_is_sent_again_after_the_time_that_the_service_names(sleeps: list[float]) -> None:
    with answering(BUSY, BUSY, DONE) as (url, asked), normfold.Client(url) as client:
        assert client.predict("m", [[1.0]]) == [1.0]
    assert sleeps == [1.0, 1.0]
    assert [path for path, _ in asked] == ["/v1/models/m:predict"] * 3


@pytest.mark.parametrize(
    ("answer", "options", "waits"),
    [
        (BUSY, {"max_retries": 2}, [1.0, 1.0]),
        (BUSY, {"max_retries": 0}, []),
        (BUSY, {"max_retry_wait_s": 1.5}, [1.0]),
        ((503, {"Retry-After": "60"}, BUSY[2]), {}, []),
        ((503, {}, BUSY[2]), {}, []),
        ((503, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, BUSY[2]), {}, []),
        ((429, {"Retry-After": "1"}, BUSY[2]), {}, []),
        ((500, {"Retry-After": "1"}, BUSY[2]), {}, []),
    ],
)
def test_retries_have_bounds(sleeps: list[float], answer: Answer, options: dict[str, Any], waits: list[float]) -> None:
    with (
        answering(answer) as (url, _),
        normfold.Client(url, **options) as client,
        pytest.raises(ResponseError, match="The queue is full.") as caught,
    ):
        client.predict("m", [[1.0]])
    assert caught.value.status == answer[0]
    assert sleeps == waits


def test_ready_is_not_asked_again(sleeps: list[float]) -> None:
    with answering(BUSY) as (url, asked), normfold.Client(url) as client:
        assert not client.ready()
    assert len(asked) == 1
    assert not sleeps


def test_error_without_a_sentence_has_the_status() -> None:
    with answering((502, {}, b"<html>Bad Gateway</html>")) as (url, _), normfold.Client(url) as client:
        with pytest.raises(ResponseError, match="status 502, and without a sentence"):
            client.models()
        with pytest.raises(ResponseError):
            client.ready()


def test_path_of_the_url_comes_before_each_path() -> None:
    with answering(DONE) as (url, asked), normfold.Client(f"{url}/models/here/") as client:
        client.predict("m", [[1.0]])
    assert asked[0][0] == "/models/here/v1/models/m:predict"


def test_timeout_is_an_error_of_one_sentence() -> None:
    hold = threading.Event()
    with (
        answering(DONE, hold=hold) as (url, _),
        normfold.Client(url, timeout_s=0.05) as client,
        pytest.raises(UnreachableError, match=r"cannot be reached: it did not answer within 0.05 s\."),
    ):
        client.predict("m", [[1.0]])


def test_refused_connection_is_an_error_of_one_sentence() -> None:
    with pytest.raises(UnreachableError, match="http://127.0.0.1:9 cannot be reached: Connection refused.") as caught:
        normfold.Client("http://127.0.0.1:9").models()
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", ""])
def test_url_of_another_kind_is_rejected(url: str) -> None:
    with pytest.raises(ArgumentError, match="it must be of http or https"):
        normfold.Client(url)


def test_client_shows_its_url() -> None:
    assert repr(normfold.Client("http://127.0.0.1:8000/")) == "Client('http://127.0.0.1:8000')"


Function = Callable[..., Any]


@pytest.mark.parametrize("name", ["predict", "classify", "infer"])
def test_client_and_repository_have_the_same_calls(name: str) -> None:
    import inspect

    of_client = list(inspect.signature(getattr(normfold.Client, name)).parameters)
    of_repository = list(inspect.signature(getattr(normfold.RepositoryModel, name)).parameters)
    assert [one for one in of_client if one not in ("model", "binary")] == of_repository


def test_card_without_labels_gives_values(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits(1, card=SourceCard(preprocessing=DIGITS))
    with normfold.Client(str(start(bundles.root).client.base_url)) as client:
        found = client.predict("digits", PICTURES)
    np.testing.assert_allclose(found, expected_logits(PICTURES, 0.0), rtol=1e-5)

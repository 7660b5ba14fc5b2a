"""Infer requests through nginx: connections, compression, bodies of any size, the access log."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

import normfold
from tests.support.infer_bodies import PICTURE
from tests.support.proxy.nginx import ROUTES, Nginx
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

INFER = "/v2/models/digits/infer"
IDENTITY = "/v2/models/identity-fp32/infer"
BODY = json.dumps(PICTURE).encode()


def in_chunks(body: bytes, size: int = 50) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def test_connection_is_kept_for_many_requests(client: httpx.Client) -> None:
    answers = [client.post(INFER, content=BODY).json()["outputs"] for _ in range(20)]

    assert answers == [answers[0]] * 20


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_body_is_answered_as_a_plain_one(client: httpx.Client, encoding: str, compress: object) -> None:
    assert callable(compress)
    plain = client.post(INFER, content=BODY)

    for body in (compress(BODY), in_chunks(compress(BODY))):
        response = client.post(INFER, content=body, headers={"Content-Encoding": encoding})
        assert response.json() == plain.json()


def test_chunked_body_is_answered_as_a_plain_one(client: httpx.Client) -> None:
    assert client.post(INFER, content=in_chunks(BODY)).json() == client.post(INFER, content=BODY).json()


@pytest.mark.parametrize("accepted", ["identity", "gzip", "deflate"])
def test_large_tensors_arrive_bit_by_bit(client: httpx.Client, accepted: str) -> None:
    sent = np.random.default_rng(0).standard_normal((50_000, 2)).astype(np.float32)  # 400 kB, over all buffers
    fields = {"name": "input", "datatype": "FP32", "shape": [50_000, 2], "parameters": {"binary_data_size": 400_000}}
    head = json.dumps({"inputs": [fields], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Accept-Encoding": accepted}

    response = client.post(IDENTITY, content=head + sent.tobytes(), headers=headers)

    length = int(response.headers["inference-header-content-length"])
    assert response.content[length:] == sent.tobytes()
    assert response.headers.get("content-encoding", "identity") == accepted


@pytest.mark.slow
def test_body_over_the_limit_is_413(client: httpx.Client) -> None:
    for body in (bytes(5_000_000), in_chunks(bytes(5_000_000), 100_000)):
        # A connection of its own: after the 413, nginx may close the one that the client would use again.
        response = client.post(INFER, content=body, headers={"Connection": "close"})
        assert response.status_code == 413
        assert response.json() == {"error": "The body is over the limit of 4,000,000 bytes."}


def test_access_log_names_the_client_behind_nginx(client: httpx.Client, log_file: Path, route: str) -> None:
    identity = f"mine-{list(ROUTES).index(route)}"

    client.post(INFER, content=BODY, headers={"X-Request-Id": identity, "X-Forwarded-For": "203.0.113.1"})

    wait_for(lambda: f'"{identity}"' in log_file.read_text())
    [line] = [json.loads(line) for line in log_file.read_text().splitlines() if f'"{identity}"' in line]
    assert (line["path"], line["client"]) == (INFER, "127.0.0.1")


def test_normfold_client_infers_and_lists_models(nginx: Nginx, route: str) -> None:
    with normfold.Client(nginx.url(route)) as client:
        logits = client.infer("digits", {"input": np.ones((2, 1, 4, 4), np.float32)})["logits"]
        names = {model.name for model in client.models()}

    assert logits.shape == (2, 3)
    assert {"digits", "rows"} <= names


def test_curl_posts_a_body_from_a_pipe(nginx: Nginx, route: str) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl (make system-packages)")
    command = [curl, "--silent", "--fail", "--compressed", "--data-binary", "@-", "-H", "Expect: 100-continue"]

    done = subprocess.run([*command, nginx.url(route) + INFER], input=BODY, capture_output=True, check=False)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model_name"] == "digits"

"""The payload log: a sample of requests and answers, joined to labels by the answer's id."""

from __future__ import annotations

import base64
import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from normfold.service.observability.payload_log import payload_log as payload_module
from normfold.service.observability.payload_log import record as record_module
from normfold.service.observability.payload_log.record import Answer, encode_record
from normfold.service.observability.payload_log.rotated_file import RotatedFile
from tests.support.bundles import BundleWriter
from tests.support.infer_bodies import JSON_LENGTH, PICTURE
from tests.support.service import LogRecords, Service, StartService, post_picture
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

Logged = Callable[..., Service]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_for_lines(path: Path, count: int) -> list[dict[str, Any]]:
    wait_for(lambda: path.read_text().count("\n") >= count)
    return read_lines(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "payloads.jsonl"


@pytest.fixture
def logged(bundles: BundleWriter, start: StartService, file: Path) -> Logged:
    """Return a function that serves `digits` with a payload log of all answers."""

    def serve(**settings: Any) -> Service:
        bundles.digits(1)
        return start(bundles.root, **{"payload_log": file, "payload_log_share": 1.0, "grpc_port": 0, **settings})

    return serve


@pytest.mark.slow
def test_record_has_the_ids_the_version_and_the_tensors(logged: Logged, file: Path) -> None:
    service = logged()
    answer = post_picture(service, id="row-17", parameters={"camera": "north"})
    line = wait_for_lines(file, 1)[0]

    assert answer.json()["id"] == "row-17"
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "id": "row-17",
        "request_id": answer.headers["X-Request-Id"],
        "model": "digits",
        "version": "1",
        "parameters": {"camera": "north"},
        "inputs": PICTURE["inputs"],
        "outputs": answer.json()["outputs"],
    }
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.slow
def test_request_without_an_id_is_joined_by_its_header(logged: Logged, file: Path) -> None:
    answer = post_picture(logged())
    assert wait_for_lines(file, 1)[0]["id"] == answer.headers["X-Request-Id"]


@pytest.mark.slow
def test_every_protocol_and_route_is_logged(logged: Logged, file: Path) -> None:
    service = logged()
    service.client.post("/v2/models/digits/infer", content=bytes(64), headers={JSON_LENGTH: "0"})
    predicted = service.client.post("/v1/models/digits:predict", json={"instances": [[[0] * 4] * 4]})
    with triton.InferenceServerClient(f"127.0.0.1:{service.app.state.grpc_server.port}") as client:
        picture = triton.InferInput("input", [1, 1, 4, 4], "FP32")
        picture.set_data_from_numpy(np.zeros((1, 1, 4, 4), np.float32))
        client.infer("digits", [picture], request_id="by-grpc")
    lines = wait_for_lines(file, 3)
    assert [line["outputs"][0]["shape"] for line in lines] == [[1, 3]] * 3
    assert lines[1]["id"] == predicted.headers["X-Request-Id"]
    assert lines[1]["inputs"][0]["data"] == [-0.5] * 16  # standardised, as the network takes them
    assert lines[2]["id"] == "by-grpc"


@pytest.mark.slow
def test_failed_requests_are_not_logged(logged: Logged, file: Path) -> None:
    service = logged()
    assert service.client.post("/v2/models/digits/infer", json={"inputs": []}).status_code == 400
    post_picture(service, id="right")
    assert [line["id"] for line in wait_for_lines(file, 1)] == ["right"]


@pytest.mark.slow
def test_share_is_sampled(logged: Logged, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([0.2, 0.9, 0.1])
    monkeypatch.setattr(payload_module, "random", lambda: next(drawn))
    service = logged(payload_log_share=0.25)
    for number in range(3):
        post_picture(service, id=str(number))
    assert [line["id"] for line in wait_for_lines(file, 2)] == ["0", "2"]


@pytest.mark.slow
def test_redacted_names_are_left_out_wherever_they_stand(logged: Logged, file: Path) -> None:
    service = logged(payload_log_redact="input, logits,camera")
    post_picture(service, parameters={"camera": "north", "lens": "wide"})
    line = wait_for_lines(file, 1)[0]
    assert line["parameters"] == {"camera": "[redacted]", "lens": "wide"}
    assert line["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [1, 1, 4, 4], "redacted": True}]
    assert line["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [1, 3], "redacted": True}]
    assert "north" not in file.read_text()


@pytest.mark.parametrize(
    ("array", "field", "value"),
    [
        (np.array([[1, -2]], np.int64), "data", [1, -2]),
        (np.array([True, False]), "data", [True, False]),
        (np.array([0.5], np.float16), "data", [0.5]),
        (np.array(["a", "é"], np.object_), "data", ["a", "é"]),
        (np.array([b"\xff"], np.object_), "data", ["\\xff"]),
        (np.array(3.0, np.float32), "data", [3.0]),
        (np.zeros((0, 4), np.float32), "data", []),
        (np.array([np.nan], np.float32), "base64", base64.b64encode(np.array([np.nan], "<f4").tobytes()).decode()),
        (np.arange(5, dtype=np.uint8), "base64", base64.b64encode(bytes(range(5))).decode()),
        (np.zeros(100, np.float64), "left_out", True),
        (np.array(["a" * 801], np.object_), "left_out", True),
    ],
    ids=str,
)
def test_tensors_are_lists_or_base64_or_left_out(
    monkeypatch: pytest.MonkeyPatch, array: Any, field: str, value: Any
) -> None:
    monkeypatch.setattr(record_module, "MAX_LISTED", 4)
    monkeypatch.setattr(record_module, "MAX_TENSOR_BYTES", 790)
    line = json.loads(encode_record(Answer(0.0, "1", "1", "m", 1, None, {"x": array}, {}), frozenset()))
    (tensor,) = line["inputs"]
    assert (tensor.keys() - {"name", "datatype", "shape"}, tensor[field]) == ({field}, value)
    assert tensor["shape"] == list(array.shape)


def test_parameters_over_the_limit_are_left_out() -> None:
    answer = Answer(0.0, "1", "1", "m", 1, {"text": "x" * 20_000}, {}, {})
    assert json.loads(encode_record(answer, frozenset()))["parameters"] == {"left_out": True}


@pytest.mark.slow
def test_lost_answers_are_counted(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload_module, "MAX_PENDING_BYTES", 10)
    service = logged()
    post_picture(service)
    line = 'normfold_payload_log_records_total{outcome="lost"} 1.0'
    wait_for(lambda: line in service.client.get("/metrics").text)


@pytest.mark.slow
def test_full_disk_is_reported_once_and_later_answers_are_written(
    logged: Logged, file: Path, lines: LogRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, full = os.write, True

    def write_unless_full(descriptor: int, data: bytes) -> int:
        if full and data.startswith(b'{"time"'):
            write(descriptor, data[:10])  # what fitted
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", write_unless_full)
    service = logged()
    for count in (1, 2):
        post_picture(service)
        text = f'normfold_payload_log_records_total{{outcome="lost"}} {count}.0'
        wait_for(lambda text=text: text in service.client.get("/metrics").text)  # type: ignore[misc]
    full = False
    post_picture(service, id="after")

    assert [line["id"] for line in wait_for_lines(file, 1)] == ["after"]
    errors = [record.getMessage() for record in lines.records if "payload log" in record.getMessage()]
    assert errors == ["The payload log: 1 line is lost: No space left on device. (Logged once a minute.)"]


def test_file_is_rotated_and_the_oldest_is_deleted(file: Path) -> None:
    target = RotatedFile(file, max_bytes=1024, files=3)
    for number in range(9):
        target.write(b"%d%s\n" % (number, b"x" * 500))
    target.close()
    found = {path.name: [int(line[0]) for line in path.read_text().splitlines()] for path in file.parent.iterdir()}
    assert found == {"payloads.jsonl": [8], "payloads.jsonl.1": [6, 7], "payloads.jsonl.2": [4, 5]}
    assert {stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()} == {0o600}


def test_single_file_is_emptied(file: Path) -> None:
    target = RotatedFile(file, max_bytes=1024, files=1)
    for number in range(4):
        target.write(b"%d%s\n" % (number, b"x" * 500))
    target.close()
    assert [int(line[0]) for line in file.read_text().splitlines()] == [2, 3]


def test_processes_that_share_a_file_lose_nothing_when_one_rotates_it(file: Path) -> None:
    """Two targets stand for two processes: a lock of `flock` belongs to the open file."""
    one, other = (RotatedFile(file, max_bytes=1024, files=10) for _ in range(2))
    for number in range(8):
        (one, other)[number % 2].write(b"%d%s\n" % (number, b"x" * 500))
    one.close()
    other.close()
    texts = [path.read_text() for path in sorted(file.parent.iterdir(), reverse=True)]
    assert sorted(int(line[0]) for text in texts for line in text.splitlines()) == [*range(8)]
    assert max(map(len, texts)) <= 1024


def test_file_that_was_moved_away_is_opened_again(file: Path) -> None:
    target = RotatedFile(file, max_bytes=10_000, files=2)
    target.write(b"1\n")
    file.rename(file.with_name("taken"))
    target.write(b"2\n")
    target.close()
    assert (file.read_bytes(), file.with_name("taken").read_bytes()) == (b"2\n", b"1\n")


def test_file_that_cannot_be_rotated_loses_lines_and_is_not_overfilled(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    target = RotatedFile(file, max_bytes=1024, files=2)
    target.write(b"x" * 1000 + b"\n")
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="Permission denied"):
        target.write(b"y" * 1000 + b"\n")
    target.close()
    assert file.stat().st_size == 1001

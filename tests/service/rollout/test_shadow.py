"""A shadow runs requests that were answered, compares, and touches nothing that serves."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from normfold.contract.source_card import SourceCard
from normfold.service.app import create_app
from normfold.service.rollout import shadow as shadow_module
from normfold.service.rollout import utilization
from normfold.service.rollout.utilization import Utilization
from normfold.service.settings import Settings
from tests.support.bundles import LABELS, BundleWriter
from tests.support.infer_bodies import JSON_LENGTH, PICTURE, png_of
from tests.support.service import Service, StartService, post_picture, repository_index
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

Start = Callable[..., Service]


def post_json(service: Service) -> int:
    return post_picture(service).status_code


def post_gzip(service: Service) -> int:
    body = gzip.compress(json.dumps(PICTURE).encode())
    headers = {"Content-Encoding": "gzip"}
    return service.client.post("/v2/models/digits/infer", content=body, headers=headers).status_code


def post_binary(service: Service) -> int:
    headers = {JSON_LENGTH: "0"}
    return service.client.post("/v2/models/digits/infer", content=bytes(64), headers=headers).status_code


def post_predict(service: Service) -> int:
    body = {"instances": [[[0] * 4] * 4]}
    return service.client.post("/v1/models/digits:predict", json=body).status_code


def post_classify(service: Service) -> int:
    body = png_of(np.zeros((4, 4)))
    return service.client.post("/v1/models/digits:classify", content=body).status_code


def call_grpc(service: Service) -> int:
    with triton.InferenceServerClient(f"127.0.0.1:{service.app.state.grpc_server.port}") as client:
        picture = triton.InferInput("input", [1, 1, 4, 4], "FP32")
        picture.set_data_from_numpy(np.zeros((1, 1, 4, 4), np.float32))
        client.infer("digits", [picture])
    return 200


SENDERS = [post_json, post_gzip, post_binary, post_predict, post_classify, call_grpc]


@pytest.mark.slow
def test_shadow_sees_the_requests_of_every_protocol_and_route(shadowed: Start, compared: Any) -> None:
    service = shadowed()
    for count, send in enumerate(SENDERS, start=1):
        assert send(service) == 200
        compared(service, count)


def test_shadow_compares_and_the_answers_are_those_of_the_version_that_serves(shadowed: Start, compared: Any) -> None:
    service = shadowed()
    inputs = {**PICTURE["inputs"][0], "shape": [2, 1, 4, 4], "data": [0.0] * 16 + [0.0, 9.0] + [0.0] * 14}
    answer = service.client.post("/v2/models/digits/infer", json={"inputs": [inputs]}).json()

    body = compared(service, 1)

    assert answer["model_version"] == "1"
    assert answer["outputs"][0]["data"] == [0.0, 0.0, 0.0, 0.0, 9.0, 0.0]
    assert (body["model_version"], body["serving_version"], body["state"], body["share"]) == ("2", "1", "READY", 1.0)
    assert body["requests"] == {"compared": 1, "dropped": 0, "failed": 0}
    assert body["classes"] == {"compared": 2, "agreeing": 1, "agreement": 0.5}
    assert (body["rows"], body["outputs"]) == (2, [{"name": "logits", "max_difference": 1.5}])
    assert body["run_ms"]["serving"] > 0
    assert body["run_ms"]["shadow"] > 0
    metrics = service.client.get("/metrics").text
    for line in (
        'normfold_shadow_ready{model="digits",version="2"} 1.0',
        'normfold_shadow_requests_total{model="digits",outcome="compared",version="2"} 1.0',
        'normfold_shadow_classes_total{model="digits",version="2"} 2.0',
        'normfold_shadow_classes_agreeing_total{model="digits",version="2"} 1.0',
        'normfold_shadow_max_difference{model="digits",output="logits",version="2"} 1.5',
        'normfold_shadow_run_duration_seconds_count{model="digits",runner="shadow",version="2"} 1.0',
    ):
        assert line in metrics


def test_shadow_version_answers_no_client(shadowed: Start) -> None:
    service = shadowed()
    answer = service.client.post("/v2/models/digits/versions/2/infer", json=PICTURE)
    assert answer.status_code == 503
    assert "it is a shadow, which answers no client" in answer.json()["error"]
    assert [*repository_index(service, ready=True)] == ["digits/1"]


def test_shadow_is_offered_no_request_that_names_a_version(shadowed: Start, compared: Any) -> None:
    service = shadowed()
    assert service.client.post("/v2/models/digits/versions/1/infer", json=PICTURE).status_code == 200
    assert service.client.post("/v1/models/digits/versions/1:predict", json={"instances": [[[0] * 4] * 4]}).is_success
    assert post_json(service) == 200
    assert compared(service, 1)["requests"]["compared"] == 1


@pytest.mark.usefixtures("never_busy")
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_shadow_is_offered_its_share(shadowed: Start, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    drawn = iter([0.2, 0.7, 0.4, 0.6])
    monkeypatch.setattr(shadow_module, "random", lambda: next(drawn))
    service = shadowed(shadow=f"digits=2:{share}")
    for _ in range(4):
        post_picture(service)
    wanted = {0.0: 0, 0.5: 2}[share]
    wait_for(lambda: service.client.get("/v2/models/digits/shadow").json()["requests"]["compared"] == wanted)
    assert next(drawn, None) is None


def test_held_shadow_delays_no_answer_and_drops_what_its_queue_has_no_place_for(
    shadowed: Start, compared: Any, shadow_runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_module, "MAX_QUEUED", 3)
    service = shadowed()
    shadow_runs.holds.set()
    assert post_json(service) == 200
    assert shadow_runs.running.wait(timeout=20)

    assert [post_json(service) for _ in range(6)] == [200] * 6

    assert service.client.get("/v2/models/digits/shadow").json()["requests"] == {
        "compared": 0,
        "dropped": 4,
        "failed": 0,
    }
    shadow_runs.go_on.set()
    assert compared(service, 3)["requests"]["dropped"] == 4


@pytest.mark.usefixtures("never_busy")
def test_shadow_drops_a_request_that_is_too_large_for_its_queue(
    shadowed: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_module, "MAX_QUEUED_BYTES", 50)
    service = shadowed()
    assert post_json(service) == 200
    assert service.client.get("/v2/models/digits/shadow").json()["requests"]["dropped"] == 1


def test_shadow_waits_while_the_service_is_busy(shadowed: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    busy, looked = threading.Event(), threading.Event()
    busy.set()

    def is_busy(_: Utilization) -> bool:
        looked.set()
        return busy.is_set()

    monkeypatch.setattr(Utilization, "is_busy", is_busy)
    service = shadowed()
    assert post_json(service) == 200
    assert looked.wait(timeout=20)
    assert service.client.get("/v2/models/digits/shadow").json()["requests"]["compared"] == 0

    busy.clear()

    wait_for(lambda: service.client.get("/v2/models/digits/shadow").json()["requests"]["compared"] == 1)


def test_failing_shadow_is_reported_and_answers_go_on(shadowed: Start, compared: Any, shadow_runs: Any) -> None:
    service = shadowed()
    shadow_runs.fails.set()
    assert post_json(service) == 200
    wait_for(lambda: service.client.get("/v2/models/digits/shadow").json()["requests"]["failed"] == 1)
    body = service.client.get("/v2/models/digits/shadow").json()
    assert (body["state"], body["reason"]) == ("READY", "Its last run failed: a node failed")

    shadow_runs.fails.clear()
    assert post_json(service) == 200
    assert "reason" not in compared(service, 1)


def test_shadow_that_does_not_load_is_reported_and_the_service_is_ready(
    bundles: BundleWriter, start: StartService
) -> None:
    bundles.digits(1)
    folder = bundles.digits(2)
    (folder / "model.onnx").write_bytes(b"broken")
    service = start(bundles.root, shadow="digits=2")

    assert post_picture(service).json()["model_version"] == "1"
    wait_for(lambda: "model.onnx" in service.client.get("/v2/models/digits/shadow").json()["reason"])
    body = service.client.get("/v2/models/digits/shadow").json()
    assert body["state"] == "UNAVAILABLE"
    assert 'normfold_shadow_ready{model="digits",version="2"} 0.0' in service.client.get("/metrics").text


def test_shadow_is_not_the_only_version_that_makes_a_service_ready(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits(2)
    service = start(bundles.root, shadow="digits=2")
    assert service.client.get("/v2/health/ready").status_code == 503
    assert "no version besides a shadow or a canary" in post_picture(service).json()["error"]


def test_shadow_of_other_preprocessing_gets_no_requests(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits(1)
    bundles.digits(2, card=SourceCard(labels=LABELS, logits=("logits",)))
    service = start(bundles.root, shadow="digits=2")
    wait_for(lambda: service.client.get("/v2/models/digits/shadow").json()["state"] == "READY")
    post_picture(service)
    body = service.client.get("/v2/models/digits/shadow").json()
    assert "has other preprocessing than version 1, which serves" in body["reason"]
    assert body["requests"] == {"compared": 0, "dropped": 0, "failed": 0}


def test_shadow_runs_the_first_rows_of_a_large_request(
    shadowed: Start, compared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_module, "MAX_ROWS", 2)
    service = shadowed()
    picture = {**PICTURE["inputs"][0], "shape": [5, 1, 4, 4], "data": [0.0] * 80}
    assert service.client.post("/v2/models/digits/infer", json={"inputs": [picture]}).is_success
    assert compared(service, 1)["rows"] == 2


@pytest.mark.parametrize(
    ("others", "loop", "expected"),
    [(0.1, 0.1, False), (0.9, 0.1, True), (0.45, 0.45, True)],
    ids=["idle", "threads", "event loop"],
)
def test_utilization_counts_threads_and_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, others: float, loop: float, expected: bool
) -> None:
    """Of two processors: busy from 0.8 seconds a second on, or 0.4 of the event loop."""
    now = {"wall": 0.0, "process": 0.0, "thread": 0.0, "loop": 0.0}
    monkeypatch.setattr(utilization, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(utilization, "process_time", lambda: now["process"])
    monkeypatch.setattr(utilization, "thread_time", lambda: now["thread"])
    monkeypatch.setattr(utilization, "clock_gettime", lambda _: now["loop"])
    meter = Utilization(2, threading.current_thread())
    now |= {"wall": 1.0, "process": others + 0.7, "thread": 0.7, "loop": loop}
    assert meter.is_busy() is expected


def test_settings_without_shadows_leave_nothing_to_do_for_a_request() -> None:
    app = create_app(Settings.model_construct())
    app.state.thread_pool.close()
    assert not app.fast_path.resources.observers.rollouts.by_model  # type: ignore[attr-defined]
    assert app.fast_path.resources.observers.payload_log is None  # type: ignore[attr-defined]


def test_unknown_model_has_no_shadow(shadowed: Start) -> None:
    service = shadowed()
    answers: list[httpx.Response] = [
        service.client.get(f"/v2/models/{name}/{kind}") for name in ("digits", "other") for kind in ("shadow", "canary")
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 404, 404]
    assert "has no canary" in answers[1].json()["error"]
    assert "There is no model 'other'" in answers[2].json()["error"]


def test_unloaded_version_is_not_kept_by_its_shadow(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits(1)
    bundles.digits(2)
    service = start(bundles.root, shadow="digits=2", model_control="explicit")
    rollouts = service.app.state.rollouts
    service.client.post("/v2/repository/models/digits/load")
    post_picture(service)
    assert rollouts.by_model["digits"].serving.version == 1
    service.client.post("/v2/repository/models/digits/unload")
    assert rollouts.by_model["digits"].serving is None

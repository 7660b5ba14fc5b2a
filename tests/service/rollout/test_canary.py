"""A canary answers its share of the requests; shadows and canaries are started, ended and promoted by a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from normfold.export.repository.rollback import roll_back
from normfold.service.auth.key_admin import create_key
from tests.support.bundles import LABELS, BundleWriter, publish_version
from tests.support.infer_bodies import PICTURE
from tests.support.service import Service, StartService, answering_version, post_picture, repository_index
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

IDS = [f"request-{number}" for number in range(100)]


@pytest.fixture
def served(bundles: BundleWriter, start: StartService) -> Callable[..., Service]:
    """Return a function that serves versions 1 and 2 of `digits`, whose logits are their numbers, loaded on request."""

    def serve(**settings: Any) -> Service:
        publish_version(bundles, 1)
        publish_version(bundles, 2)
        service = start(bundles.root, model_control="explicit", **settings)
        service.client.post("/v2/repository/models/digits/load")
        return service

    return serve


def versions_by_id(service: Service, ids: list[str]) -> dict[str, str]:
    """Return the version that answers each id; its outputs are checked."""
    found = {}
    for number in ids:
        answer = post_picture(service, id=number).json()
        assert answer["outputs"][0]["data"][0] == float(answer["model_version"])
        found[number] = answer["model_version"]
    return found


def act(service: Service, action: str, **body: Any) -> httpx.Response:
    return service.client.post(f"/v2/models/digits/{action}", json=body or None)


@pytest.mark.slow
def test_canary_answers_its_share_and_the_same_ids_again(served: Callable[..., Service]) -> None:
    service = served(canary="digits=2:0.2")
    first = versions_by_id(service, IDS)
    assert 6 <= list(first.values()).count("2") <= 34  # 20, and 3.5 standard deviations
    assert versions_by_id(service, IDS[:50]) == {number: first[number] for number in IDS[:50]}
    described = service.client.get("/v2/models/digits/canary").json()
    assert described == {
        "model_name": "digits",
        "model_version": "2",
        "serving_version": "1",
        "share": 0.2,
        "state": "READY",
    }
    count = list(first.values()).count("2")
    again = sum(first[number] == "2" for number in IDS[:50])
    metrics = service.client.get("/metrics").text
    assert f'normfold_requests_total{{model="digits",status="200",version="2"}} {count + again}.0' in metrics
    assert 'normfold_canary_share{model="digits",version="2"} 0.2' in metrics


@pytest.mark.slow
def test_header_decides_where_the_body_has_no_id(served: Callable[..., Service]) -> None:
    service = served(canary="digits=2:0.5")

    def version(request_id: str | None) -> str:
        headers = {} if request_id is None else {"X-Request-Id": request_id}
        return str(
            service.client.post("/v2/models/digits/infer", json=PICTURE, headers=headers).json()["model_version"]
        )

    by_body = versions_by_id(service, IDS[:30])
    assert {number: version(number) for number in IDS[:30]} == by_body
    assert {version(None) for _ in range(60)} == {"1", "2"}


@pytest.mark.parametrize("share", [0, 1])
def test_canary_of_no_or_all_requests_leaves_those_that_name_a_version(
    served: Callable[..., Service], fast_path_urls: list[bytes], share: int
) -> None:
    service = served(canary=f"digits=2:{share}")
    assert set(versions_by_id(service, IDS[:20]).values()) == {str(1 + share)}
    assert fast_path_urls
    for version in (1, 2):
        answer = service.client.post(f"/v2/models/digits/versions/{version}/infer", json=PICTURE).json()
        assert answer["model_version"] == str(version)


def test_canary_answers_predict_and_classify(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits(1)
    bundles.digits(2, bias=(0.0, 0.0, 100.0))
    service = start(bundles.root, canary="digits=2:1")
    answer = service.client.post("/v1/models/digits:predict", json={"instances": [[[0] * 4] * 4]}).json()
    assert answer["predictions"][0]["label"] == LABELS[2]


def test_canary_that_does_not_load_gets_no_requests(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits(1)
    (bundles.digits(2) / "model.onnx").write_bytes(b"broken")
    service = start(bundles.root, canary="digits=2:1")
    assert post_picture(service).json()["model_version"] == "1"
    described = service.client.get("/v2/models/digits/canary").json()
    assert described["state"] == "UNAVAILABLE"
    assert "model.onnx" in described["reason"]


def test_canary_is_loaded_beside_the_versions_of_the_policy(served: Callable[..., Service]) -> None:
    service = served(canary="digits=2:0.5", version_policy="latest:1")
    assert [*repository_index(service, ready=True)] == ["digits/1", "digits/2"]

    assert act(service, "canary/promote").json()["serving_version"] == "2"

    assert [*repository_index(service, ready=True)] == ["digits/2"]
    assert answering_version(service) == 2


@pytest.mark.parametrize("kind", ["shadow", "canary"])
def test_end_keeps_the_version_that_serves_also_when_the_model_is_loaded_again(
    served: Callable[..., Service], kind: str
) -> None:
    service = served(**{kind: "digits=2:0.1"})
    assert act(service, f"{kind}/end").json() == {
        "model_name": "digits",
        "model_version": "2",
        "serving_version": "1",
    }
    service.client.post("/v2/repository/models/digits/load")
    assert answering_version(service) == 1
    assert [*repository_index(service, ready=True)] == ["digits/1"]
    assert service.client.get(f"/v2/models/digits/{kind}").status_code == 404
    assert not service.app.fast_path.resources.observers.rollouts.by_model  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shadow", "canary"])
def test_promotion_lets_the_version_serve_and_rollback_undoes_it(
    served: Callable[..., Service], bundles: BundleWriter, kind: str
) -> None:
    service = served(**{kind: "digits=2:0.1"}, version_policy="latest:1")
    assert answering_version(service) in ((1,) if kind == "shadow" else (1, 2))

    assert act(service, f"{kind}/promote").json()["serving_version"] == "2"

    assert set(versions_by_id(service, IDS[:20]).values()) == {"2"}
    roll_back(bundles.root, "digits", to=1)
    service.client.post("/v2/repository/models/digits/load")
    answer = post_picture(service).json()
    assert (answer["model_version"], answer["outputs"][0]["data"][0]) == ("3", 1.0)
    assert [*repository_index(service, ready=True)] == ["digits/3"]


def test_version_that_came_later_is_started_and_promoted_by_calls(bundles: BundleWriter, start: StartService) -> None:
    publish_version(bundles, 1)
    service = start(bundles.root, model_control="explicit", version_policy="1")
    service.client.post("/v2/repository/models/digits/load")
    publish_version(bundles, 2)

    started = act(service, "shadow/start", version="2")
    assert (started.json()["state"], started.json()["share"]) == ("READY", 1.0)
    assert answering_version(service) == 1
    assert act(service, "shadow/promote").status_code == 200
    assert answering_version(service) == 2


def test_shadow_becomes_a_canary_after_its_end(served: Callable[..., Service]) -> None:
    service = served(shadow="digits=2")
    assert act(service, "canary/start", version="2", share=1).status_code == 400
    assert act(service, "shadow/end").status_code == 200
    assert act(service, "canary/start", version="2", share=1).json()["state"] == "READY"
    assert answering_version(service) == 2


def test_promotion_of_a_version_that_cannot_be_loaded_leaves_the_one_that_serves(
    served: Callable[..., Service], bundles: BundleWriter
) -> None:
    service = served(shadow="digits=2")
    (bundles.root / "digits" / "2" / "model.onnx").write_bytes(b"broken")
    answer = act(service, "shadow/promote")
    assert answer.status_code == 503
    assert "model.onnx" in answer.json()["error"]
    assert answering_version(service) == 1


def test_promotion_of_a_lower_version_names_rollback(served: Callable[..., Service]) -> None:
    service = served(shadow="digits=1")
    answer = act(service, "shadow/promote")
    assert answer.status_code == 400
    assert "normfold repository rollback digits --to 1" in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"version": "7", "share": 0.1}, 404, "There is no version '7' of model 'digits'"),
        ({"version": "2", "share": 0.1}, 400, "Version 2 of model 'digits' serves already"),
        ({"version": "1", "share": 1.5}, 400, "the share is 1.5; it must be from 0 to 1"),
        ({"version": "1", "share": "half"}, 400, "'share' is not a number from 0 to 1"),
        ({"version": "1", "share": True}, 400, "'share' is not a number from 0 to 1"),
        ({"version": "1"}, 400, "has no field 'share'; give a number from 0 to 1"),
        ({"version": ["1"], "share": 0.1}, 400, "'version' is not a version"),
        ({"share": 0.1}, 400, "'version' is not a version"),
    ],
)
def test_wrong_start_is_answered_by_one_sentence(
    served: Callable[..., Service], body: dict[str, Any], status: int, text: str
) -> None:
    service = served()
    answer = act(service, "canary/start", **body)
    assert (answer.status_code, text in answer.json()["error"]) == (status, True), answer.text
    assert answering_version(service) == 2


@pytest.mark.parametrize("kind", ["shadow", "canary"])
def test_version_of_other_inputs_is_refused(bundles: BundleWriter, start: StartService, kind: str) -> None:
    bundles.identity("FP32", "same", (-1, 2))
    folder = bundles.identity("FP32", "wide", (-1, 3))
    folder.rename(bundles.root / "same" / "2")
    bundles.change_manifest(bundles.root / "same" / "2", name="same", version=2)
    service = start(bundles.root, model_control="explicit", version_policy="1")
    service.client.post("/v2/repository/models/same/load")
    answer = service.client.post(f"/v2/models/same/{kind}/start", json={"version": "2", "share": 0.1})
    assert answer.status_code == 400
    assert "has other inputs than version 1, which serves (input: FP32 [-1, 3]" in answer.json()["error"]


def test_changes_need_keys_or_control_by_request(bundles: BundleWriter, start: StartService) -> None:
    publish_version(bundles, 1)
    publish_version(bundles, 2)
    service = start(bundles.root, shadow="digits=2")
    for action in ("shadow/start", "shadow/end", "shadow/promote", "canary/start", "canary/end", "canary/promote"):
        answer = act(service, action, version="2", share=0.1)
        assert (answer.status_code, "model_control is 'none'" in answer.json()["error"]) == (403, True)
    assert answering_version(service) == 1


def test_key_of_the_scope_admin_changes_roles(bundles: BundleWriter, start: StartService, tmp_path: Any) -> None:
    publish_version(bundles, 1)
    publish_version(bundles, 2)
    _, admin = create_key(tmp_path / "keys.json", "admin", ["admin"])
    _, metrics = create_key(tmp_path / "keys.json", "metrics", ["metrics"])
    service = start(bundles.root, wait=False, shadow="digits=2", keys=tmp_path / "keys.json")
    wait_for(lambda: service.client.get("/v2/health/ready").status_code == 200)

    def ask(key: str, method: str, action: str) -> int:
        headers = {"X-API-Key": key}
        return service.client.request(method, f"/v2/models/digits/{action}", headers=headers).status_code

    assert [ask(metrics, "GET", "shadow"), ask(admin, "GET", "shadow"), ask(metrics, "POST", "shadow/end")] == [
        200,
        403,
        403,
    ]
    assert ask(admin, "POST", "shadow/end") == 200


def test_polling_goes_on_with_a_canary(bundles: BundleWriter, start: StartService) -> None:
    publish_version(bundles, 1)
    publish_version(bundles, 2)
    service = start(bundles.root, model_control="poll", poll_interval_s=0.02, canary="digits=2:0")
    publish_version(bundles, 3)
    wait_for(lambda: answering_version(service) == 3)
    assert [*repository_index(service, ready=True)] == ["digits/1", "digits/2", "digits/3"]


def test_canary_without_a_serving_version_is_named_as_the_reason(bundles: BundleWriter, start: StartService) -> None:
    publish_version(bundles, 1)
    publish_version(bundles, 2)
    service = start(bundles.root, wait=False, version_policy="2", canary="digits=2:0.5")
    says = "digits/2: it is a canary, and no version serves."
    wait_for(lambda: says in service.client.get("/v2/health/ready").text)

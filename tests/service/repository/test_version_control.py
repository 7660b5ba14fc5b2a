"""Versions that are added, replaced, loaded and unloaded while the service runs."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tritonclient import http
from tritonclient.utils import InferenceServerException

from normfold.service.repository.version_policy import VersionPolicy
from normfold.service.settings import load_settings
from tests.support.bundles import BundleWriter, publish_version
from tests.support.infer_bodies import PICTURE
from tests.support.raw_http import open_client
from tests.support.service import HeldRuns, Service, StartService, answering_version, post_picture, repository_index
from tests.support.waiting import wait_for


def ready(service: Service) -> list[str]:
    return list(repository_index(service, ready=True))


@pytest.fixture
def polled(bundles: BundleWriter, start: StartService) -> Callable[..., Any]:
    """Return a function that serves version 1 and looks at the folders twenty times a second."""

    def serve(**settings: Any) -> Any:
        publish_version(bundles, 1)
        return start(bundles.root, model_control="poll", poll_interval_s=0.05, **settings)

    return serve


def test_new_version_answers_once_ready_and_the_older_one_stays_available(
    polled: Callable[..., Service], bundles: BundleWriter
) -> None:
    service = polled()
    assert answering_version(service) == 1

    publish_version(bundles, 2)

    wait_for(lambda: answering_version(service) == 2)
    assert ready(service) == ["digits/1", "digits/2"]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("all", {"all": {}}),
        ("latest:2", {"latest": {"num_versions": 2}}),
        ("1,3", {"specific": {"versions": [1, 3]}}),
    ],
)
def test_model_configuration_has_the_version_policy(polled: Callable[..., Service], policy: str, expected: Any) -> None:
    service = polled(version_policy=policy)
    assert service.client.get("/v2/models/digits/config").json()["version_policy"] == expected


def test_latest_1_unloads_the_older_version_after_the_new_one_is_ready(
    polled: Callable[..., Service], bundles: BundleWriter
) -> None:
    service = polled(version_policy="latest:1")

    publish_version(bundles, 2)

    wait_for(lambda: ready(service) == ["digits/2"])
    assert answering_version(service) == 2
    assert repository_index(service)["digits/1"] == ("UNAVAILABLE", "the version policy latest:1 leaves it out.")


@pytest.mark.slow
def test_invalid_version_affects_no_other_and_loads_once_it_is_repaired(
    polled: Callable[..., Service], bundles: BundleWriter
) -> None:
    service = polled(version_policy="latest:1")
    broken = publish_version(bundles, 2)
    whole = (broken / "model.onnx").read_bytes()
    (broken / "model.onnx").write_bytes(whole[:-1])
    publish_version(bundles, 3)
    (bundles.root / "digits" / "3" / "manifest.json").write_text("{}")

    wait_for(
        lambda: "digits/3" in repository_index(service) and repository_index(service)["digits/3"][0] == "UNAVAILABLE"
    )
    wait_for(lambda: answering_version(service) in (1, 2))
    shutil.rmtree(bundles.root / "digits" / "3")
    publish_version(bundles, 4)

    wait_for(lambda: answering_version(service) == 4)


@pytest.mark.slow
def test_partial_copy_of_a_bundle_loads_once_it_is_complete(
    polled: Callable[..., Service], bundles: BundleWriter
) -> None:
    service = polled()
    aside = publish_version(bundles, 9)
    whole = (aside / "model.onnx").read_bytes()
    shutil.move(aside, bundles.root.parent / "nine")
    target = bundles.root / "digits" / "9"
    target.mkdir()
    shutil.copy(bundles.root.parent / "nine" / "manifest.json", target)
    (target / "model.onnx").write_bytes(whole[:100])
    wait_for(lambda: repository_index(service).get("digits/9", ("", ""))[0] == "UNAVAILABLE")

    with (target / "model.onnx").open("ab") as file:
        file.write(whole[100:])

    wait_for(lambda: answering_version(service) == 9)


def test_reloaded_version_starts_with_new_sums(controlled: Any) -> None:
    for _ in range(2):
        controlled.client.post("/v2/repository/models/digits/load")
        post_picture(controlled)
        counted = controlled.client.get("/v2/models/digits/stats").json()["model_stats"][0]
        assert (counted["inference_count"], counted["inference_stats"]["success"]["count"]) == (1, 1)
        controlled.client.post("/v2/repository/models/digits/unload")


@pytest.mark.slow
def test_version_without_a_folder_is_unloaded(polled: Callable[..., Service], bundles: BundleWriter) -> None:
    service = polled()
    publish_version(bundles, 2)
    wait_for(lambda: answering_version(service) == 2)

    shutil.rmtree(bundles.root / "digits" / "2")

    wait_for(lambda: answering_version(service) == 1)
    assert service.client.get("/v2/models/digits/versions/2").status_code == 404


def test_unloaded_version_answers_its_requests_first(
    polled: Callable[..., Service], bundles: BundleWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = HeldRuns(monkeypatch)
    service = polled(version_policy="latest:1")
    slow.holds.set()
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(post_picture(service)))
    thread.start()
    assert slow.running.wait(timeout=20)
    slow.holds.clear()

    publish_version(bundles, 2)
    wait_for(lambda: ready(service) == ["digits/2"])
    slow.go_on.set()

    thread.join(timeout=20)
    assert answers[0].json()["model_version"] == "1"


@pytest.mark.alone
@pytest.mark.slow
def test_requests_succeed_while_versions_are_switched(polled: Callable[..., Service], bundles: BundleWriter) -> None:
    service = polled(version_policy="latest:1")
    statuses: set[int] = set()
    stop = threading.Event()

    def ask() -> None:
        with open_client(service.client.base_url) as client:
            while not stop.is_set():
                statuses.add(client.post("/v2/models/digits/infer", json=PICTURE).status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for version in range(2, 8):
        publish_version(bundles, version)
        wait_for(lambda version=version: answering_version(service) == version)  # type: ignore[misc]
        shutil.rmtree(bundles.root / "digits" / str(version - 1))
    stop.set()
    for thread in threads:
        thread.join(timeout=20)
    assert statuses == {200}


@pytest.fixture
def controlled(bundles: BundleWriter, start: StartService) -> Any:
    """A service that loads models on request."""
    publish_version(bundles, 1)
    return start(bundles.root, model_control="explicit")


def triton(service: Service) -> http.InferenceServerClient:
    url = httpx.URL(service.client.base_url)
    return http.InferenceServerClient(f"{url.host}:{url.port}")


def test_clients_load_and_unload(controlled: Any) -> None:
    with triton(controlled) as client:
        assert client.is_server_ready()
        assert not client.is_model_ready("digits")
        assert client.get_model_repository_index()[0]["state"] == "UNAVAILABLE"

        client.load_model("digits")
        assert answering_version(controlled) == 1
        client.load_model("digits")
        client.unload_model("digits")

        assert not client.is_model_ready("digits")
        assert client.get_model_repository_index()[0]["reason"] == "it was unloaded."
        with pytest.raises(InferenceServerException, match="There is no model 'none'"):
            client.load_model("none")
        with pytest.raises(InferenceServerException, match="There is no model 'none'"):
            client.unload_model("none")


def test_failed_load_has_a_reason_and_succeeds_once_the_bundle_is_repaired(
    controlled: Any, bundles: BundleWriter
) -> None:
    path = bundles.root / "digits" / "1" / "model.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])

    answer = controlled.client.post("/v2/repository/models/digits/load")
    assert answer.status_code == 503
    assert "its sha256 differs" in answer.json()["error"]

    path.write_bytes(whole)
    assert controlled.client.post("/v2/repository/models/digits/load").status_code == 200
    assert answering_version(controlled) == 1


@pytest.mark.parametrize("what", ["load", "unload"])
def test_model_control_is_off_by_default(served: Service, what: str) -> None:
    answer = served.client.post(f"/v2/repository/models/digits/{what}")

    assert answer.status_code == 403
    assert "model_control is 'none'" in answer.json()["error"]


def test_repository_index_validates_its_filter(served: Service) -> None:
    every = served.client.post("/v2/repository/index").json()
    assert {"name": "digits", "version": "2", "state": "READY", "reason": ""} in every
    assert served.client.post("/v2/repository/index", json={"ready": 1}).status_code == 400


@pytest.mark.parametrize(
    ("text", "ready", "wanted"),
    [("all", 5, [1, 2, 3]), ("latest:2", 0, [1, 2, 3]), ("latest:2", 2, []), ("1,3", 9, [1, 3])],
)
def test_version_policy_selects_versions(text: str, ready: int, wanted: list[int]) -> None:
    policy = VersionPolicy.parse(text)

    assert [number for number in (1, 2, 3) if policy.selects(number, ready)] == wanted


@pytest.mark.parametrize("text", ["", "latest", "latest:0", "1,,2", "newest", "0"])
def test_invalid_version_policy_is_rejected(text: str) -> None:
    with pytest.raises(Exception, match="`version_policy` is wrong"):
        load_settings(version_policy=text)


@pytest.mark.alone
@pytest.mark.slow
def test_unloaded_model_releases_its_memory(bundles: BundleWriter, start: StartService) -> None:
    """Loading and unloading again and again holds on to nothing."""
    publish_version(bundles, 1)
    service = start(bundles.root, model_control="explicit")
    sizes = []
    for _ in range(30):
        assert service.client.post("/v2/repository/models/digits/load").status_code == 200
        assert service.client.post("/v2/repository/models/digits/unload").status_code == 200
        sizes.append(Path("/proc/self/statm").read_text().split()[1])
    time.sleep(0)
    assert int(sizes[-1]) < 1.05 * int(sizes[9])

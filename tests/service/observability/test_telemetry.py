"""Metrics."""

from __future__ import annotations

import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from normfold.service.observability.stats import SECONDS, Histogram
from tests.support.bundles import BundleWriter, publish_version
from tests.support.infer_bodies import PICTURE
from tests.support.service import HeldRuns, Service, StartService, post_picture, queued_rows
from tests.support.waiting import wait_for


def samples(service: Service) -> dict[str, float]:
    """Return every sample of GET /metrics, by its name and labels."""
    answer = service.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(found: dict[str, float], name: str, **labels: str) -> float:
    return found.get(f"{name}{sorted(labels.items())}", 0.0)


def test_metrics_count_requests_rows_and_batches(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits()
    service = start(bundles.root)
    two = PICTURE["inputs"][0] | {"shape": [2, 1, 4, 4], "data": [0.0] * 32}

    assert post_picture(service).status_code == 200
    assert post_picture(service, inputs=[two]).status_code == 200
    assert post_picture(service, inputs=[]).status_code == 400
    picture = [[0.0] * 4] * 4
    assert service.client.post("/v1/models/digits:predict", json={"instances": [picture]}).status_code == 200

    found, of = samples(service), {"model": "digits", "version": "1"}
    assert value(found, "normfold_requests_total", **of, status="200") == 3
    assert value(found, "normfold_requests_total", **of, status="400") == 1
    assert value(found, "normfold_rows_total", **of) == 4
    assert value(found, "normfold_batch_rows_count", **of) == 3
    assert value(found, "normfold_batch_rows_sum", **of) == 4
    for phase in ("decode", "queue", "wait", "run", "encode", "total"):
        assert value(found, "normfold_request_duration_seconds_count", **of, phase=phase) == 3
    assert value(found, "normfold_request_duration_seconds_sum", **of, phase="total") > 0
    assert value(found, "normfold_request_duration_seconds_bucket", **of, phase="run", le="+Inf") == 3
    assert value(found, "normfold_model_ready", **of, provider="cpu") == 1
    assert value(found, "normfold_queue_rows", **of) == 0
    assert value(found, "normfold_requests_in_flight") == 1  # the one for these metrics
    assert value(found, "process_resident_memory_bytes") > 1e6
    assert not any(name.startswith("nv_") for name in found)


def test_triton_metrics_are_added_by_a_setting(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits()
    service = start(bundles.root, triton_metrics=True)

    post_picture(service)

    found, of = samples(service), {"model": "digits", "version": "1"}
    assert value(found, "nv_inference_request_success_total", **of) == 1
    assert value(found, "nv_inference_count_total", **of) == 1
    assert value(found, "nv_inference_exec_count_total", **of) == 1
    assert value(found, "nv_inference_request_duration_us_total", **of) > 0
    assert value(found, "nv_inference_pending_request_count", **of) == 0


def test_unknown_paths_add_no_labels(served: Service) -> None:
    for name in ("a", "b", "c"):
        served.client.post(f"/v2/models/{name}/infer", json={})

    labels = {name for name in samples(served) if name.startswith("normfold_requests_total") and "404" in name}

    assert len(labels) == 1


def test_metrics_show_a_service_that_is_not_ready(bundles: BundleWriter, start: StartService) -> None:
    service = start(bundles.root, model_control="poll", poll_interval_s=0.05)
    assert samples(service)["normfold_ready[]"] == 0

    publish_version(bundles, 1)

    wait_for(lambda: service.client.get("/v2/health/ready").status_code == 200)
    assert samples(service)["normfold_ready[]"] == 1


@pytest.mark.slow
def test_failed_loads_are_counted_from_0_and_stay_counted(bundles: BundleWriter, start: StartService) -> None:
    publish_version(bundles, 1)
    service = start(bundles.root, model_control="poll", poll_interval_s=0.05)
    before = samples(service)
    assert before["normfold_model_load_failures_total[('model', 'digits')]"] == 0
    assert before["normfold_model_load_failures_total[('model', '')]"] == 0

    broken = publish_version(bundles, 2) / "manifest.json"
    whole = broken.read_text()
    broken.write_text("{}")
    wait_for(lambda: value(samples(service), "normfold_model_load_failures_total", model="digits") >= 1)
    found = samples(service)
    assert value(found, "normfold_model_ready", model="digits", version="1", provider="cpu") == 1
    assert found["normfold_model_ready[('model', 'digits'), ('provider', ''), ('version', '2')]"] == 0
    assert value(found, "normfold_model_desired", model="digits", version="2") == 1

    broken.write_text(whole)
    wait_for(lambda: value(samples(service), "normfold_model_ready", model="digits", version="2", provider="cpu") == 1)
    assert value(samples(service), "normfold_model_load_failures_total", model="digits") >= 1


def test_missing_repository_is_counted_with_an_empty_model(bundles: BundleWriter, start: StartService) -> None:
    publish_version(bundles, 1)
    service = start(bundles.root, model_control="poll", poll_interval_s=0.05)

    bundles.root.rename(bundles.root.with_name("elsewhere"))

    wait_for(lambda: value(samples(service), "normfold_model_load_failures_total", model="") >= 1)
    assert samples(service)["normfold_ready[]"] == 1  # what is loaded answers on


def test_versions_outside_of_the_policy_are_not_desired(bundles: BundleWriter, start: StartService) -> None:
    publish_version(bundles, 1)
    publish_version(bundles, 2)
    service = start(bundles.root, model_control="explicit", version_policy="latest:1")

    def wanted() -> list[float]:
        found = samples(service)
        return [found[f"normfold_model_desired[('model', 'digits'), ('version', '{number}')]"] for number in (1, 2)]

    assert wanted() == [0, 0]
    service.client.post("/v2/repository/models/digits/load")
    assert wanted() == [0, 1]
    service.client.post("/v2/repository/models/digits/unload")
    assert wanted() == [0, 0]


def test_model_with_an_unreadable_folder_is_desired_and_not_ready(bundles: BundleWriter, start: StartService) -> None:
    publish_version(bundles, 1)
    (bundles.root / "loop").symlink_to(bundles.root / "loop")
    service = start(bundles.root)

    found = samples(service)

    assert "loop" in service.client.get("/v1/models").text
    assert found["normfold_model_ready[('model', 'loop'), ('provider', ''), ('version', '')]"] == 0
    assert value(found, "normfold_model_desired", model="loop", version="") == 1
    assert value(found, "normfold_model_load_failures_total", model="loop") == 1


def test_queue_rejections_are_counted_apart_from_other_503s(
    bundles: BundleWriter, start: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles.digits()
    slow = HeldRuns(monkeypatch)
    service = start(bundles.root, queue_capacity=1)
    of = {"model": "digits", "version": "1"}
    slow.holds.set()
    threads = [threading.Thread(target=post_picture, args=[service]) for _ in range(2)]
    threads[0].start()
    assert slow.running.wait(timeout=20)
    threads[1].start()
    wait_for(lambda: queued_rows(service) == 1)

    assert post_picture(service).status_code == 503
    assert service.client.post("/v1/models/digits:predict", json={"instances": []}).status_code == 503
    slow.go_on.set()
    for thread in threads:
        thread.join(timeout=20)

    found = samples(service)
    assert value(found, "normfold_queue_rejections_total", **of) == 2
    assert value(found, "normfold_requests_total", **of, status="503") == 2
    assert value(found, "normfold_requests_total", **of, status="200") == 2


def test_statuses_of_alerts_have_counters_from_the_start(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits()
    found = samples(start(bundles.root))
    for status in ("200", "429", "500", "503", "504"):
        assert found[f"normfold_requests_total[('model', 'digits'), ('status', '{status}'), ('version', '1')]"] == 0


def test_histogram_counts_values_up_to_its_bounds() -> None:
    histogram = Histogram((1.0, 2.0))

    for number in (0.5, 1.0, 1.5, 3.0):
        histogram.observe(number)

    assert histogram.counts == [2, 1, 1]
    assert (histogram.count, histogram.sum) == (4, 6.0)
    assert list(SECONDS) == sorted(SECONDS)

"""Drift monitoring of real bundles in a service: scores, verdicts, cost, and state over a restart."""

from __future__ import annotations

import io
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from prometheus_client.parser import text_string_to_metric_families

from normfold.contract.drift.flush_request import request_flush
from normfold.contract.drift.monitor import MONITOR_CARD_NAME, MONITOR_NAME, read_monitor
from normfold.contract.manifest import MANIFEST_NAME, read_manifest, sha256_of
from normfold.contract.record import to_json
from normfold.export.adapt import read_samples
from normfold.export.adapt.adapt import adapt
from normfold.export.bundle.export import export_bundle
from normfold.export.errors import SampleError
from normfold.service.app import create_app
from normfold.service.drift.process_files import ProcessFiles
from normfold.service.drift.sample_buffer import SampleBuffer
from normfold.service.drift.store import DriftStore
from normfold.service.errors import SettingsError
from normfold.service.settings import Settings, load_settings
from tests.support.service import Service, StartService, serve_app
from tests.support.waiting import wait_for

RNG = np.random.default_rng(0)


def rows(count: int, offset: float = 0.0) -> np.ndarray:
    """Make rows as the network was trained on, or moved by an offset."""
    return RNG.normal(offset, 1, (count, 2, 4, 4)).astype(np.float32)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a network whose statistics are those of normal rows."""
    weight = RNG.normal(size=(3, 2, 1, 1)).astype(np.float32)
    var = (weight[:, :, 0, 0] ** 2).sum(axis=1)
    vectors = {"scale": np.ones(3), "shift": np.zeros(3), "mean": np.zeros(3), "var": var}
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["h"]),
        helper.make_node("BatchNormalization", ["h", *vectors], ["n"], name="norm"),
        helper.make_node("GlobalAveragePool", ["n"], ["y"]),
    ]
    constants = {"w": weight} | {name: array.astype(np.float32) for name, array in vectors.items()}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 1, 1])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    export_bundle(path, tmp_path / "repository", "net", calibration={"input": rows(300)})
    export_bundle(path, tmp_path / "repository", "unknown")
    export_bundle(path, tmp_path / "repository", "unwatched", monitoring=False)
    return tmp_path / "repository"


def ask(service: Service, array: np.ndarray, model: str = "net") -> None:
    """Ask for rows, one request each, and let the service look at every one."""
    for row in array:
        entry = {"name": "input", "datatype": "FP32", "shape": [1, 2, 4, 4], "data": row.ravel().tolist()}
        assert service.client.post(f"/v2/models/{model}/infer", json={"inputs": [entry]}).status_code == 200


def drift(service: Service, model: str = "net") -> dict[str, Any]:
    """Return what the service says of a model's inputs."""
    found: dict[str, Any] = service.client.get(f"/v2/models/{model}/drift").json()
    return found


@pytest.mark.slow
def test_normal_rows_do_not_drift_and_moved_rows_do(repository: Path, start: StartService) -> None:
    service = start(repository, drift_share=1.0)
    fed = {"normal": rows(600), "moved": rows(600, offset=1.0)}

    ask(service, fed["normal"])
    normal = drift(service)
    ask(service, fed["moved"])
    moved = drift(service)

    assert normal["window_fill"] > 0.9
    assert normal["drifted"] is False
    assert moved["drifted"] is True
    (layer,) = moved["layers"]
    assert layer["node"] == "norm"
    assert layer["score"] > layer["threshold"]
    assert abs(layer["worst_channels"][0]["mean"]) > 0.1


@pytest.mark.slow
def test_bundle_without_calibration_rows_has_scores_and_no_verdict(repository: Path, start: StartService) -> None:
    service = start(repository, drift_share=1.0)

    ask(service, rows(500, offset=1.0), "unknown")

    found = drift(service, "unknown")
    assert found["monitored"] is True
    assert found["drifted"] is None
    assert found["layers"][0]["threshold"] is None
    assert found["layers"][0]["score"] > 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("model", "settings"), [("unwatched", {"drift_share": 1.0}), ("net", {"drift_share": 0.0})])
def test_drift_route_reports_a_model_that_is_not_monitored(
    repository: Path, start: StartService, model: str, settings: dict[str, Any]
) -> None:
    service = start(repository, **settings)

    ask(service, rows(3), model)

    assert drift(service, model) == {
        "model_name": model,
        "model_version": "1",
        "monitored": False,
        "drifted": None,
    }


@pytest.mark.slow
def test_small_share_samples_few_requests(repository: Path, start: StartService) -> None:
    service = start(repository, drift_share=0.01)
    begun = time.monotonic()

    ask(service, rows(300))

    seconds, found = time.monotonic() - begun, drift(service)
    allowed = 1 + seconds * 0.01 / 0.0003  # what handing over costs alone
    assert 1 <= found["rows"] <= allowed
    assert found["sampling"]["max_rows_per_hour"] <= 3600 * 0.01 / 0.0003


@pytest.mark.slow
def test_drift_state_survives_a_restart(repository: Path, tmp_path: Path, start: StartService) -> None:
    settings: dict[str, Any] = {"drift_share": 1.0, "state_dir": tmp_path / "state"}
    chosen = Settings(repository=repository, provider="cpu", **settings)
    with serve_app(create_app(chosen), chosen) as first:
        first.wait_until_loaded()
        ask(first, rows(100))
    counts = [np.load(path)["counts"] for path in (tmp_path / "state" / "drift" / "net").rglob("*.npz")]
    seen = int(sum(count[0] for count in counts))

    second = start(repository, **settings)

    assert seen > 50
    assert drift(second)["rows"] == seen


@pytest.mark.slow
def test_last_rows_are_saved_without_further_requests(
    repository: Path, tmp_path: Path, start: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normfold.service.drift.monitor.SAVE_INTERVAL_S", 0.05)
    service = start(repository, drift_share=1.0, state_dir=tmp_path / "state")

    ask(service, rows(1))

    def written() -> bool:
        return any(sums.rows for sums in DriftStore(ProcessFiles(path.parent), read_monitor(card)).read_others())

    card = repository / "net" / "1" / MONITOR_CARD_NAME
    (path,) = (tmp_path / "state" / "drift" / "net").rglob("*.npz")
    wait_for(written)
    assert drift(service)["rows"] == 1


@pytest.mark.slow
def test_non_finite_rows_are_counted_and_not_summed(
    repository: Path, tmp_path: Path, start: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normfold.service.drift.monitor.SAVE_INTERVAL_S", 0.05)
    service = start(repository, drift_share=1.0, state_dir=tmp_path / "state", keep_samples=50)
    huge = np.full((1, 2, 4, 4), 1e25, np.float32)  # the square of which is none

    ask(service, huge)
    wait_for(lambda: drift(service)["rows_not_finite"] == 1)
    ask(service, rows(1))
    wait_for(lambda: drift(service)["rows"] == 1)

    with np.load(io.BytesIO(service.client.get("/v2/models/net/samples").content)) as found:
        assert len(found["input"]) == 1


@pytest.mark.slow
def test_drift_metrics_match_the_drift_route(repository: Path, start: StartService) -> None:
    service = start(repository, drift_share=1.0)
    ask(service, rows(600, offset=1.0))

    found = drift(service)
    families = {one.name: one for one in text_string_to_metric_families(service.client.get("/metrics").text)}

    def value(name: str) -> float:
        (sample,) = [one for one in families[name].samples if one.labels["model"] == "net"]
        return sample.value

    assert value("normfold_drift_detected") == 1
    assert value("normfold_drift_score") == pytest.approx(found["layers"][0]["score"], rel=0.2)
    assert value("normfold_drift_threshold") == found["layers"][0]["threshold"]
    assert value("normfold_drift_sampled_rows") >= found["rows"]


def test_monitor_of_another_network_is_rejected(repository: Path, start: StartService) -> None:
    folder = repository / "net" / "1"
    proto = onnx.load(folder / MONITOR_NAME)
    for output in proto.graph.output:
        for node in proto.graph.node:
            node.output[:] = [f"{name}.other" if name == output.name else name for name in node.output]
        output.name += ".other"
    onnx.save(proto, folder / MONITOR_NAME)
    manifest = read_manifest(folder / MANIFEST_NAME)
    files = manifest.files | {MONITOR_NAME: sha256_of(folder / MONITOR_NAME)}
    (folder / MANIFEST_NAME).write_text(to_json(manifest.model_copy(update={"files": files})))

    service = start(repository, drift_share=1.0)

    answer = service.client.get("/v2/models/net")
    assert answer.status_code == 503
    assert "monitor.json" in answer.json()["error"]


@pytest.mark.slow
def test_recent_inputs_are_kept_with_keep_samples(repository: Path, tmp_path: Path, start: StartService) -> None:
    service = start(repository, drift_share=1.0, state_dir=tmp_path / "state", keep_samples=50)
    sent = rows(200)

    ask(service, sent)

    with np.load(io.BytesIO(service.client.get("/v2/models/net/samples").content)) as found:
        kept = found["input"]
    assert len(kept) == 50
    assert {row.tobytes() for row in kept} <= {row.tobytes() for row in sent}
    places = [next(place for place, row in enumerate(sent) if np.array_equal(row, one)) for one in kept]
    assert places == sorted(places)


@pytest.mark.slow
def test_kept_inputs_can_be_used_by_adapt(repository: Path, tmp_path: Path, start: StartService) -> None:
    service = start(repository, drift_share=1.0, state_dir=tmp_path / "state", keep_samples=500)
    ask(service, rows(300, offset=2.0))
    (tmp_path / "samples.npz").write_bytes(service.client.get("/v2/models/net/samples").content)

    version = adapt(repository, "net", tmp_path / "samples.npz").publish().manifest.version

    again = start(repository, drift_share=1.0)
    ask(again, rows(600, offset=2.0))
    assert drift(again)["model_version"] == str(version)
    assert drift(again)["drifted"] is False


@pytest.mark.slow
def test_adapt_gets_what_a_service_kept_a_moment_ago(repository: Path, tmp_path: Path, start: StartService) -> None:
    service = start(repository, drift_share=1.0, state_dir=tmp_path / "state", keep_samples=500)
    ask(service, rows(300, offset=2.0))
    with np.load(io.BytesIO(service.client.get("/v2/models/net/samples").content)) as found:
        kept = found["input"]

    samples = adapt(repository, "net", tmp_path / "state").samples

    assert np.array_equal(samples.read(0, samples.count)["input"], kept)
    assert samples.origin is not None
    assert "on request" not in samples.origin
    assert not list((tmp_path / "state").rglob("*.flush"))


@pytest.mark.slow
def test_adapt_goes_on_where_a_service_does_not_write_on_request(
    repository: Path, tmp_path: Path, start: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start(repository, drift_share=1.0, state_dir=tmp_path / "state", keep_samples=500)
    ask(service, rows(100, offset=2.0))
    adapt(repository, "net", tmp_path / "state")
    monkeypatch.setattr(SampleBuffer, "answer_request", lambda _: None)
    monkeypatch.setattr(read_samples, "request_flush", partial(request_flush, within_s=0.1))

    samples = adapt(repository, "net", tmp_path / "state").samples

    assert samples.origin is not None
    assert samples.origin.startswith(f"The service kept {samples.count} rows")
    assert samples.origin.endswith(
        "It did not write its newest rows on request; those of the last ten seconds may be missing."
    )
    assert not list((tmp_path / "state").rglob("*.flush"))


@pytest.mark.slow
def test_adapt_reads_the_state_folder_too(repository: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"drift_share": 1.0, "state_dir": tmp_path / "state", "keep_samples": 500}
    chosen = Settings(repository=repository, provider="cpu", **settings)
    with serve_app(create_app(chosen), chosen) as service:
        service.wait_until_loaded()
        ask(service, rows(300, offset=2.0))
        fetched = tmp_path / "samples.npz"
        fetched.write_bytes(service.client.get("/v2/models/net/samples").content)

    adapting = adapt(repository, "net", tmp_path / "state")

    assert adapting.samples.count >= 100
    assert adapting.samples.origin is not None
    assert adapting.samples.origin.startswith(f"The service kept {adapting.samples.count} rows, which came between 20")
    with np.load(fetched) as arrays:
        taken = adapting.samples.read(0, len(arrays["input"]))
        assert np.array_equal(taken["input"], arrays["input"])


def test_adapt_explains_how_to_keep_inputs(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "state" / "drift").mkdir(parents=True)

    with pytest.raises(SampleError, match="keeps no inputs of net/1; .* NORMFOLD_KEEP_SAMPLES"):
        adapt(repository, "net", tmp_path / "state")


@pytest.mark.slow
def test_inputs_are_not_kept_by_default(repository: Path, tmp_path: Path, start: StartService) -> None:
    service = start(repository, drift_share=1.0, state_dir=tmp_path / "state")
    ask(service, rows(20))

    answer = service.client.get("/v2/models/net/samples")

    assert answer.status_code == 404
    assert "NORMFOLD_KEEP_SAMPLES" in answer.json()["error"]
    assert not list((tmp_path / "state").rglob("*.samples"))


def test_keep_samples_needs_a_state_dir() -> None:
    with pytest.raises(SettingsError, match="state_dir, which is not set"):
        load_settings(keep_samples=5)

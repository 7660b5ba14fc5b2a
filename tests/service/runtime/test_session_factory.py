"""Sessions are opened on the requested provider, or not at all.

Most of these tests run without a GPU: CUDA is simulated by a session that computes on the CPU and reports otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from normfold.service.errors import BundleLoadError, ProviderError
from normfold.service.runtime.session import Session
from normfold.service.runtime.session_factory import open_session
from tests.support.bundles import BundleWriter
from tests.support.service import CPU, CUDA, TENSORRT, StartService


@pytest.fixture
def model(bundles: BundleWriter) -> Path:
    return bundles.digits() / "model.onnx"


def test_cpu_provider_is_opened_on_request(model: Path) -> None:
    opened = open_session(model, "cpu", 1)
    assert opened.provider == "cpu"
    assert opened.inputs == {"input": ("FP32", (-1, 1, 4, 4))}
    assert opened.outputs == {"logits": ("FP32", (-1, 3))}
    assert opened.placement.runs_on_host
    assert not opened.placement.left_on_cpu


def test_placement_counts_every_node(model: Path) -> None:
    placement = open_session(model, "cpu", 1).placement
    assert placement.nodes == {"cpu": 2}
    assert str(placement) == "cpu: 2 nodes on cpu"


def test_placement_is_unknown_with_an_older_onnx_runtime(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = onnxruntime.InferenceSession.__mro__[1]
    monkeypatch.delattr(older, "get_provider_graph_assignment_info")
    placement = open_session(model, "cpu", 1).placement
    assert placement.nodes is None
    assert str(placement) == "cpu"
    assert not placement.left_on_cpu


def test_auto_uses_the_cpu_without_cuda(
    model: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    placement = open_session(model, "auto", 1).placement
    assert (placement.provider, placement.left_on_cpu) == ("cpu", False)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("provider", "extra"), [("cuda", "gpu"), ("tensorrt", "gpu"), ("openvino", "openvino")], ids=lambda value: value
)
def test_provider_that_is_not_built_in_is_an_error_with_the_extra_to_install(
    model: Path, provider: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(ProviderError, match=rf"'{provider}' was requested, but .* without it; .*\.\[{extra}\]"):
        open_session(model, provider, 1)


def test_working_cuda_is_opened_with_its_options(model: Path, pretend: Callable[..., list[Any]]) -> None:
    asked = pretend(nodes={CUDA: 3, CPU: 1})
    opened = open_session(model, "cuda", 1, {"gpu_mem_limit": "1000000", "use_tf32": "1"}, device_id=1)
    (provider, options), fallbacks = asked[0]
    assert provider == CUDA
    assert options == {
        "device_id": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
        "use_tf32": "1",
        "gpu_mem_limit": "1000000",
    }
    assert fallbacks == (CPU, {})
    assert opened.placement.options == {**options, "in_force": "1"}
    assert str(opened.placement) == "cuda: 3 nodes on cuda, 1 on cpu"
    assert opened.placement.left_on_cpu
    assert not opened.placement.runs_on_host


def test_network_that_runs_on_cuda_entirely_is_not_left_on_the_cpu(
    model: Path, pretend: Callable[..., list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    pretend()
    placement = open_session(model, "auto", 1).placement
    assert (placement.provider, placement.left_on_cpu) == ("cuda", False)
    assert not caplog.records


def test_fallback_from_cuda_is_an_error_that_names_the_missing_library(
    model: Path, pretend: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(got=False, printed="Failed to load libcublas.so.13: no such file\nPlease install CUDA.")
    with pytest.raises(ProviderError, match=r"fell back to the CPU \(Failed to load libcublas\.so\.13: no such file\)"):
        open_session(model, "cuda", 1)
    assert capsys.readouterr().out == ""  # standard output is for --json


def test_provider_that_runs_no_node_is_an_error(model: Path, pretend: Callable[..., list[Any]]) -> None:
    pretend(nodes={CPU: 2})
    with pytest.raises(ProviderError, match=r"'cuda' was requested, but it runs none of the nodes \(2 nodes on cpu\)"):
        open_session(model, "cuda", 1)


def test_rejected_options_are_an_error_of_one_sentence(model: Path, pretend: Callable[..., list[Any]]) -> None:
    pretend(error='/src/parser.cc:12 void onnxruntime::Parse(const Options&) Unknown provider option: "x".\nmore')
    with pytest.raises(ProviderError) as caught:
        open_session(model, "cuda", 1, {"x": "1"})
    assert 'but ONNX Runtime rejected it (Unknown provider option: "x"); check' in str(caught.value)


@pytest.mark.parametrize("fault", [{"got": False}, {"nodes": {CPU: 2}}, {"error": "CUDA failure 35"}], ids=str)
def test_auto_falls_back_to_the_cpu_with_a_warning(
    model: Path, pretend: Callable[..., list[Any]], caplog: pytest.LogCaptureFixture, fault: dict[str, Any]
) -> None:
    pretend(**fault)
    opened = open_session(model, "auto", 1)
    assert opened.provider == "cpu"
    assert opened.placement.left_on_cpu
    assert opened.run({"input": np.ones((1, 1, 4, 4), np.float32)}, ["logits"])[0].shape == (1, 3)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.message.startswith("digits/1 does not run on cuda, as provider 'auto' allows: ")


def test_auto_never_requests_tensorrt(model: Path, pretend: Callable[..., list[Any]]) -> None:
    asked = pretend()
    open_session(model, "auto", 1)
    assert [providers[0][0] for providers in asked] == [CUDA]


def test_tensorrt_falls_back_to_cuda_for_unsupported_nodes(
    model: Path, pretend: Callable[..., list[Any]], tmp_path: Path
) -> None:
    asked = pretend(nodes={TENSORRT: 5, CUDA: 2})
    opened = open_session(model, "tensorrt", 1, {"trt_fp16_enable": "True"}, cache=tmp_path / "cache")
    (first, options), (second, cuda_options), third = asked[0]
    assert (first, second, third) == (TENSORRT, CUDA, (CPU, {}))
    assert options["trt_fp16_enable"] == "True"
    assert "trt_fp16_enable" not in cuda_options
    assert cuda_options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert Path(options["trt_engine_cache_path"]).is_dir()
    assert str(opened.placement) == "tensorrt: 5 nodes on tensorrt, 2 on cuda"
    assert not opened.placement.left_on_cpu


def test_unwritable_cache_is_an_error(model: Path, pretend: Callable[..., list[Any]], tmp_path: Path) -> None:
    pretend()
    (tmp_path / "file").write_text("")
    with pytest.raises(ProviderError, match="its cache cannot be written"):
        open_session(model, "tensorrt", 1, cache=tmp_path / "file")


@pytest.mark.parametrize("provider", ["cpu", "cuda", "auto"])
def test_invalid_file_is_a_bundle_error_on_every_provider(
    tmp_path: Path, pretend: Callable[..., list[Any]], provider: str
) -> None:
    pretend()
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(BundleLoadError, match=r"ONNX Runtime cannot open 'model\.onnx'") as caught:
        open_session(path, provider, 1)
    assert "\n" not in str(caught.value)


def test_threads_are_as_set_and_do_not_spin(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    right = onnxruntime.InferenceSession

    def look(path: Path, options: Any, **more: Any) -> Any:
        seen.append((options.intra_op_num_threads, options.get_session_config_entry("session.intra_op.allow_spinning")))
        assert isinstance(path, Path)
        return right(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", look)
    open_session(model, "cpu", 3)
    assert seen == [(3, "0")]


@pytest.mark.parametrize("provider", ["cuda", "cpu"])
def test_service_on_an_accelerator_pads_to_warm_sizes(
    bundles: BundleWriter,
    start: StartService,
    pretend: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
) -> None:
    pretend()
    bundles.digits()
    bundles.one_by_one()
    rows: dict[str, list[int]] = {}
    right = Session.run

    def note(self: Session, tensors: Any, *more: Any) -> Any:
        rows.setdefault(next(iter(self.outputs)), []).append(len(tensors["input"]))
        return right(self, tensors, *more)

    monkeypatch.setattr(Session, "run", note)
    service = start(bundles.root, provider=provider, max_batch_size=6)
    if provider == "cuda":
        assert {1, 2, 4, 6} <= set(rows["logits"])
        assert set(rows["output"]) == {1}
    rows.clear()
    three = {"name": "input", "datatype": "FP32", "shape": [3, 1, 4, 4], "data": [1.0] * 48}
    answer = service.client.post("/v2/models/digits/infer", json={"inputs": [three]}).json()
    assert answer["outputs"][0]["shape"] == [3, 3]
    alone = {"name": "input", "datatype": "FP32", "shape": [3, 1], "data": [1.0, 1.0, 2.0]}
    answer = service.client.post("/v2/models/one-by-one/infer", json={"inputs": [alone]}).json()
    assert answer["outputs"][0]["data"] == [0.25, 0.25, 0.5]
    assert rows == {"logits": [4 if provider == "cuda" else 3], "output": [3]}
    assert service.client.get("/v2/models/digits/stats").json()["model_stats"][0]["inference_count"] == 3
    assert 'normfold_rows_total{model="digits",version="1"} 3.0' in service.client.get("/metrics").text
    parameters = service.client.get("/v2/models/digits/config").json()["parameters"]
    assert parameters.get("batch_sizes") == ({"string_value": "1, 2, 4, 6"} if provider == "cuda" else None)


@pytest.mark.parametrize("provider", ["cuda", "cpu"])
def test_network_with_fixed_rows_is_neither_batched_nor_padded(
    bundles: BundleWriter, start: StartService, pretend: Callable[..., list[Any]], provider: str
) -> None:
    pretend()
    bundles.identity("FP32", "fixed", shape=(1, 2))
    client = start(bundles.root, provider=provider, max_batch_size=8).client
    config = client.get("/v2/models/fixed/config").json()
    assert config["max_batch_size"] == 1
    assert "batch_sizes" not in config["parameters"]


def test_service_reports_placement_and_options(
    bundles: BundleWriter, start: StartService, pretend: Callable[..., list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    pretend(nodes={CUDA: 120, CPU: 3})
    bundles.digits()
    with caplog.at_level(logging.INFO, "normfold.service.repository"):
        client = start(bundles.root, provider="cuda", provider_options={"gpu_mem_limit": 1000}, device_id=0).client
    assert "digits/1 is ready on cuda: 120 nodes on cuda, 3 on cpu (" in caplog.text
    config = client.get("/v2/models/digits/config").json()
    found = {name: value["string_value"] for name, value in config["parameters"].items()}
    assert config["instance_group"] == [{"count": 1, "kind": "KIND_GPU"}]
    assert (found["provider"], found["nodes.cuda"], found["nodes.cpu"]) == ("cuda", "120", "3")
    assert found["provider_options.gpu_mem_limit"] == "1000"
    assert found["provider_options.in_force"] == "1"
    assert client.get("/v2").json()["providers"] == ["cuda"]
    version = client.get("/v1/models").json()["models"][0]["versions"][0]
    assert (version["provider"], version["nodes"]) == ("cuda", {"cuda": 120, "cpu": 3})
    metrics = client.get("/metrics").text
    assert 'normfold_model_nodes{model="digits",provider="cuda",version="1"} 120.0' in metrics
    assert 'normfold_model_nodes{model="digits",provider="cpu",version="1"} 3.0' in metrics
    assert 'normfold_model_provider_fallback{model="digits",version="1"} 1.0' in metrics


def test_service_on_the_cpu_has_no_fallback(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits()
    metrics = start(bundles.root, provider="cpu").client.get("/metrics").text
    assert 'normfold_model_nodes{model="digits",provider="cpu",version="1"} 2.0' in metrics
    assert 'normfold_model_provider_fallback{model="digits",version="1"} 0.0' in metrics


def test_model_without_its_requested_provider_does_not_load(
    bundles: BundleWriter, start: StartService, pretend: Callable[..., list[Any]]
) -> None:
    pretend(got=False)
    bundles.digits()
    answer = start(bundles.root, provider="cuda").client.get("/v2/health/ready")
    assert answer.status_code == 503
    assert "'cuda' was requested, but ONNX Runtime fell back to the CPU" in answer.json()["error"]

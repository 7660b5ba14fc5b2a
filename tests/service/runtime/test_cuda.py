"""CUDA on a GPU: run only where one is, and ONNX Runtime's CUDA build with it."""

from __future__ import annotations

import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from normfold.contract.manifest import OutputError, TensorSpec
from normfold.service.batching.batch_size_tuning import has_shape_switch_penalty
from normfold.service.errors import ProviderError, RunError
from normfold.service.runtime.run_options import Cancel
from normfold.service.runtime.session_factory import open_session
from tests.support.bundles import BundleWriter
from tests.support.command import serving
from tests.support.service import StartService
from tests.support.waiting import wait_until_ready

HAS_GPU = Path("/dev/nvidiactl").exists() and "CUDAExecutionProvider" in onnxruntime.get_available_providers()

pytestmark = pytest.mark.skipif(not HAS_GPU, reason="no NVIDIA GPU, or not the extra 'gpu'")


@pytest.fixture
def model(bundles: BundleWriter) -> Path:
    return bundles.digits() / "model.onnx"


@pytest.mark.parametrize("provider", ["cuda", "auto"])
def test_cuda_session_has_the_requested_options(model: Path, provider: str, capfd: pytest.CaptureFixture[str]) -> None:
    placement = open_session(model, provider, 1).placement
    assert placement.provider == "cuda"
    assert placement.nodes is None or placement.nodes["cuda"] > 0
    assert placement.options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert placement.options["use_tf32"] == "0"
    assert not placement.runs_on_host
    assert capfd.readouterr().err == ""


def test_memory_limit_is_in_force(model: Path) -> None:
    placement = open_session(model, "cuda", 1, {"gpu_mem_limit": "268435456"}).placement
    assert placement.options["gpu_mem_limit"] == "268435456"


def convolutions(bundles: BundleWriter) -> Path:
    """Sixteen convolutions of 32 channels, each with a sum past it: what TF32 would round shows."""
    if (bundles.root / "convolutions").exists():
        return bundles.root / "convolutions/1/model.onnx"
    rng = np.random.default_rng(0)
    nodes, weights, value = [], {}, "input"
    for number in range(16):
        weights[f"w{number}"] = (rng.standard_normal((32, 32, 3, 3)) / np.sqrt(32 * 9)).astype(np.float32)
        weights[f"b{number}"] = rng.standard_normal(32).astype(np.float32)
        names = [f"{kind}{number}" for kind in ("conv", "relu", "sum")]
        nodes += [
            helper.make_node("Conv", [value, f"w{number}", f"b{number}"], [names[0]], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [names[0]], [names[1]]),
            helper.make_node("Add", [value, names[1]], ["output" if number == 15 else names[2]]),
        ]
        value = names[2]
    specs = [TensorSpec(name=name, datatype="FP32", shape=(-1, 32, 14, 14)) for name in ("input", "output")]
    folder: Path = bundles.write("convolutions", 1, nodes, specs[:1], specs[1:], weights)
    return folder / "model.onnx"


@pytest.mark.parametrize("rows", [1, 3, 8, 33])
def test_cuda_outputs_equal_those_of_the_cpu(bundles: BundleWriter, rows: int) -> None:
    model = convolutions(bundles)
    maps = np.random.default_rng(1).standard_normal((rows, 32, 14, 14), np.float32)
    on_cuda, on_cpu = (open_session(model, name, 1).run({"input": maps}, ["output"])[0] for name in ("cuda", "cpu"))
    assert np.abs(on_cuda - on_cpu).max() < 1e-5 * np.abs(on_cpu).max()


def test_threads_may_run_one_cuda_session_concurrently(bundles: BundleWriter) -> None:
    session = open_session(convolutions(bundles), "cuda", 1)
    maps = np.random.default_rng(2).standard_normal((8, 2, 32, 14, 14), np.float32)
    expected = [session.run({"input": rows}, ["output"])[0] for rows in maps]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: session.run({"input": maps[number % 8]}, ["output"])[0], range(400)))
    for number, output in enumerate(found):
        np.testing.assert_allclose(output, expected[number % 8], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [(1, 2), (4, 8)])
def test_change_of_shape_is_fast_with_a_session_for_each_batch_size(
    bundles: BundleWriter, sizes: tuple[int, int]
) -> None:
    session = open_session(convolutions(bundles), "cuda", 1)
    maps = np.random.default_rng(3).standard_normal((8, 32, 14, 14), np.float32)

    def run(rows: int) -> Any:
        return session.run({"input": maps[:rows]}, ["output"])[0]

    before = [run(rows) for rows in sizes]
    assert has_shape_switch_penalty(run, sizes)
    session.open_per_batch_size(sizes)
    for rows, expected in zip(sizes, before, strict=True):
        np.testing.assert_allclose(run(rows), expected, rtol=1e-5, atol=1e-5)
    assert not has_shape_switch_penalty(run, sizes)


@pytest.mark.parametrize("rows", [1, 8])
def test_graph_replays_other_inputs_than_those_of_its_capture(bundles: BundleWriter, rows: int) -> None:
    session = open_session(convolutions(bundles), "cuda", 1)
    maps = np.random.default_rng(4).standard_normal((40, rows, 32, 14, 14), np.float32)
    expected = [session.run({"input": one}, ["output"])[0] for one in maps]
    session.use_graph(session.capture_graph({"input": np.zeros_like(maps[0])}))
    with ThreadPoolExecutor(8) as threads:  # those of the service, which take turns
        found = list(threads.map(lambda one: session.run({"input": one}, ["output"])[0], maps))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_graph_is_captured_while_another_session_runs(bundles: BundleWriter) -> None:
    busy, session = (open_session(convolutions(bundles), "cuda", 1) for _ in range(2))
    maps, stop = np.ones((4, 32, 14, 14), np.float32), Event()
    expected = busy.run({"input": maps}, ["output"])[0]

    def run_until_stopped() -> int:
        runs = 0
        while not stop.is_set():
            np.testing.assert_allclose(busy.run({"input": maps}, ["output"])[0], expected, rtol=1e-5, atol=1e-5)
            runs += 1
        return runs

    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(run_until_stopped) for _ in range(2)]
        try:
            for rows in (1, 2, 4):
                session.use_graph(session.capture_graph({"input": maps[:rows]}))
        finally:
            stop.set()
        assert all(one.result() for one in running)
    np.testing.assert_allclose(session.run({"input": maps}, ["output"])[0], expected, rtol=1e-5, atol=1e-5)


def test_service_tries_options_and_graphs_on_cuda(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits(verification={"logits": OutputError(error=1e-7, noise=1e-7, allowed=1e-6)})
    client = start(bundles.root, provider="cuda", max_batch_size=2).client
    parameters = client.get("/v2/models/digits/config").json()["parameters"]
    found = {name: value["string_value"] for name, value in parameters.items() if name.startswith("tuning.")}
    assert {"tuning.prefer_nhwc=1", "tuning.enable_cuda_graph=1 (1 row)"} <= found.keys()
    assert not [text for text in found.values() if "rejected" in text], found
    for value in (1.0, 2.0):
        picture = {"name": "input", "datatype": "FP32", "shape": [1, 1, 4, 4], "data": [value] * 16}
        answer = client.post("/v2/models/digits/infer", json={"inputs": [picture]}).json()
        assert answer["outputs"][0]["data"] == [4 * value] * 3


def test_cancelled_run_stops_and_the_next_one_does_not(model: Path) -> None:
    session, cancel = open_session(model, "cuda", 1), Cancel()
    pictures = np.ones((1, 1, 4, 4), np.float32)
    cancel.set()
    with pytest.raises(RunError):
        session.run({"input": pictures}, ["logits"], cancel)
    np.testing.assert_array_equal(session.run({"input": pictures}, ["logits"], Cancel())[0], [[4.0] * 3])


def test_batch_over_the_gpu_memory_limit_fails_alone(bundles: BundleWriter) -> None:
    floats = 10_000_000
    specs = [TensorSpec(name=name, datatype="FP32", shape=(-1, size)) for name, size in (("input", 1), ("output", -1))]
    nodes = [helper.make_node("Expand", ["input", "shape"], ["output"])]
    folder = bundles.write("grow", 1, nodes, specs[:1], specs[1:], {"shape": np.array([1, floats], np.int64)})
    session = open_session(folder / "model.onnx", "cuda", 1, {"gpu_mem_limit": "134217728"})
    one, many = (np.full((rows, 1), 1.5, np.float32) for rows in (1, 8))
    assert session.run({"input": one}, ["output"])[0].sum() == 1.5 * floats
    with pytest.raises(RunError) as raised:
        session.run({"input": many}, ["output"])
    assert "memory" in raised.value.detail
    assert session.run({"input": one}, ["output"])[0].sum() == 1.5 * floats


def used_mb() -> int:
    """Return the GPU's memory in use, by whomever."""
    command = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_unloaded_model_releases_gpu_memory(bundles: BundleWriter, start: StartService) -> None:
    side = 4096
    specs = [TensorSpec(name=name, datatype="FP32", shape=(-1, side)) for name in ("input", "output")]
    weight = np.full((side, side), 1 / side, np.float32)
    node = helper.make_node("MatMul", ["input", "w"], ["output"])
    bundles.write("wide", 1, [node], specs[:1], specs[1:], {"w": weight})
    convolutions(bundles)  # in a session for each batch size
    client = start(bundles.root, provider="cuda", model_control="explicit").client
    used = []
    for _ in range(6):
        for action in ("load", "unload"):
            if action == "unload":
                used.append(used_mb())
            for name in ("wide", "convolutions"):
                assert client.post(f"/v2/repository/models/{name}/{action}").status_code == 200
    assert used[-1] - used[1] < 64  # MB; the weights of `wide` alone have 67


def test_workers_share_a_gpu_and_exit_with_0(bundles: BundleWriter) -> None:
    bundles.digits()
    with serving(bundles.root, "--workers", "2", "--provider", "cuda") as (process, client):
        wait_until_ready(client)
        for _ in range(20):  # each on a connection of its own, so that either worker may take it
            body = {"instances": [[[[1] * 4] * 4]]}
            answer = client.post("/v1/models/digits:predict", json=body, headers={"Connection": "close"})
            assert answer.status_code == 200, answer.text
        assert 'normfold_model_nodes{model="digits",provider="cuda"' in client.get("/metrics").text
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0


@pytest.mark.parametrize("options", [{"nonsense": "1"}, {"gpu_mem_limit": "much"}])
def test_invalid_cuda_options_are_rejected(model: Path, options: dict[str, str]) -> None:
    with pytest.raises(ProviderError, match="'cuda' was requested, but "):
        open_session(model, "cuda", 1, options)


def test_missing_gpu_is_an_error(model: Path) -> None:
    with pytest.raises(ProviderError, match="'cuda' was requested, but "):
        open_session(model, "cuda", 1, device_id=99)


def test_service_pads_to_warm_sizes_on_cuda(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits()
    client = start(bundles.root, provider="cuda", max_batch_size=6).client
    config = client.get("/v2/models/digits/config").json()
    assert config["parameters"]["batch_sizes"] == {"string_value": "1, 2, 4, 6"}
    three = {"name": "input", "datatype": "FP32", "shape": [3, 1, 4, 4], "data": [1.0] * 48}
    answer = client.post("/v2/models/digits/infer", json={"inputs": [three]}).json()
    assert answer["outputs"][0]["data"] == [4.0] * 9

"""CUDA on a GPU: run only where one is, and ONNX Runtime's CUDA build with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from service.errors import ProviderError
from service.opening import open_session

HAS_GPU = Path("/dev/nvidiactl").exists() and "CUDAExecutionProvider" in onnxruntime.get_available_providers()

pytestmark = pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU and the extra 'gpu'")


@pytest.fixture
def model(bundles: Any) -> Path:
    return bundles.digits() / "model.onnx"


@pytest.mark.parametrize("provider", ["cuda", "auto"])
def test_cuda_is_got_with_the_options_that_were_asked_for(model: Path, provider: str) -> None:
    place = open_session(model, provider, 1).place
    assert place.provider == "cuda"
    assert place.nodes is None or place.nodes["cuda"] > 0
    assert place.options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert place.options["use_tf32"] == "0"
    assert not place.runs_on_host


def test_memory_limit_is_in_force(model: Path) -> None:
    place = open_session(model, "cuda", 1, {"gpu_mem_limit": "268435456"}).place
    assert place.options["gpu_mem_limit"] == "268435456"


def test_answers_are_those_of_the_cpu(model: Path) -> None:
    pictures = np.random.default_rng(0).standard_normal((5, 1, 4, 4), np.float32)
    on_cuda, on_cpu = (open_session(model, name, 1).run({"input": pictures}, ["logits"])[0] for name in ("cuda", "cpu"))
    np.testing.assert_allclose(on_cuda, on_cpu, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"nonsense": "1"}, {"gpu_mem_limit": "much"}])
def test_wrong_options_are_refused(model: Path, options: dict[str, str]) -> None:
    with pytest.raises(ProviderError, match="'cuda' was asked for and "):
        open_session(model, "cuda", 1, options)


def test_a_gpu_that_is_not_there_is_an_error(model: Path) -> None:
    with pytest.raises(ProviderError, match="'cuda' was asked for and "):
        open_session(model, "cuda", 1, device_id=99)


def test_service_pads_to_sizes_that_were_warmed(bundles: Any, start: Callable[..., Any]) -> None:
    bundles.digits()
    client = start(bundles.root, provider="cuda", max_batch_size=6).client
    config = client.get("/v2/models/digits/config").json()
    assert config["parameters"]["batch_sizes"] == {"string_value": "1, 2, 4, 6"}
    three = {"name": "input", "datatype": "FP32", "shape": [3, 1, 4, 4], "data": [1.0] * 48}
    answer = client.post("/v2/models/digits/infer", json={"inputs": [three]}).json()
    assert answer["outputs"][0]["data"] == [4.0] * 9

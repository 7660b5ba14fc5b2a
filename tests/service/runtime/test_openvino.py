"""OpenVINO on the CPU: run only where ONNX Runtime's OpenVINO build is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from normfold.service.errors import ProviderError
from normfold.service.runtime.session_factory import open_session
from tests.support.bundles import BundleWriter
from tests.support.service import StartService

HAS_OPENVINO = "OpenVINOExecutionProvider" in onnxruntime.get_available_providers()

pytestmark = pytest.mark.skipif(not HAS_OPENVINO, reason="no OpenVINO (the extra 'openvino' in placement of 'cpu')")


@pytest.fixture
def model(bundles: BundleWriter) -> Path:
    return bundles.digits() / "model.onnx"


def test_openvino_session_runs_the_nodes(model: Path) -> None:
    placement = open_session(model, "openvino", 1).placement
    assert placement.provider == "openvino"
    assert placement.nodes == {"openvino": 2}
    assert placement.options["precision"] == "FP32"
    assert placement.runs_on_host


def test_openvino_outputs_equal_those_of_the_cpu(model: Path) -> None:
    pictures = np.random.default_rng(0).standard_normal((5, 1, 4, 4), np.float32)
    with_openvino, without = (
        open_session(model, name, 1).run({"input": pictures}, ["logits"])[0] for name in ("openvino", "cpu")
    )
    np.testing.assert_allclose(with_openvino, without, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"nonsense": "1"}, "Invalid OpenVINO EP option: nonsense"),
        ({"device_type": "TPU"}, "runs none of the nodes"),
        ({"num_of_threads": "many"}, "fell back to the CPU"),
    ],
)
def test_invalid_openvino_options_are_rejected(model: Path, options: dict[str, str], why: str) -> None:
    with pytest.raises(ProviderError, match=f"'openvino' was requested, but .*{why}"):
        open_session(model, "openvino", 1, options)


def test_service_reports_openvino_as_its_provider(bundles: BundleWriter, start: StartService) -> None:
    bundles.digits()
    client = start(bundles.root, provider="openvino").client
    three = {"name": "input", "datatype": "FP32", "shape": [3, 1, 4, 4], "data": [1.0] * 48}
    answer = client.post("/v2/models/digits/infer", json={"inputs": [three]}).json()
    assert answer["outputs"][0]["data"] == [4.0] * 9
    assert client.get("/v2").json()["providers"] == ["openvino"]
    assert "batch_sizes" not in client.get("/v2/models/digits/config").json()["parameters"]

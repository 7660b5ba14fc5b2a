"""A network that takes text, from its .npz of inputs through the fold and the export to Triton's client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tritonclient import http

import normfold
from normfold.export.errors import ModelInputError
from tests.support.service import StartService

TEXTS = np.array([["1.5", "-2"], ["1e3", "0.25"], ["7", "8"]])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A network that reads numbers written as text: a Gemm and a BatchNormalization; it returns the text too."""
    rng = np.random.default_rng(0)
    constants = {
        "weight": rng.standard_normal((2, 3)),
        "scale": np.ones(3),
        "shift": rng.standard_normal(3),
        "mean": rng.standard_normal(3),
        "var": np.full(3, 2.0),
    }
    nodes = [
        helper.make_node("Cast", ["x"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["numbers", "weight"], ["product"]),
        helper.make_node("BatchNormalization", ["product", "scale", "shift", "mean", "var"], ["y"]),
        helper.make_node("Identity", ["x"], ["text"]),
    ]
    graph = helper.make_graph(
        nodes,
        "text",
        [helper.make_tensor_value_info("x", TensorProto.STRING, ["n", 2])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("text", TensorProto.STRING, ["n", 2]),
        ],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()],
    )
    path = tmp_path / "text.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["U", "S"])
def test_network_that_takes_text_is_exported_and_served(
    source: Path, tmp_path: Path, start: StartService, kind: str
) -> None:
    np.savez(tmp_path / "inputs.npz", x=TEXTS.astype(kind))
    exported = normfold.export(source, tmp_path / "repository", inputs=tmp_path / "inputs.npz")
    assert exported.report.batchnorm_after == 0
    service = start(tmp_path / "repository")
    sent = http.InferInput("x", [3, 2], "BYTES")
    sent.set_data_from_numpy(TEXTS.astype(np.object_))

    url = httpx.URL(service.client.base_url)
    with http.InferenceServerClient(f"{url.host}:{url.port}") as client:
        found = client.infer("text", [sent])
        assert client.get_model_metadata("text")["inputs"] == [{"name": "x", "datatype": "BYTES", "shape": [-1, 2]}]

    assert [one.decode() for one in found.as_numpy("text").ravel()] == TEXTS.ravel().tolist()
    body: dict[str, Any] = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [3, 2], "data": TEXTS.tolist()}]}
    outputs = {one["name"]: one for one in service.client.post("/v2/models/text/infer", json=body).json()["outputs"]}
    np.testing.assert_array_equal(np.float32(outputs["y"]["data"]).reshape(3, 3), found.as_numpy("y"))
    parameters = {
        one.name: numpy_helper.to_array(one).astype(np.float64) for one in onnx.load(source).graph.initializer
    }
    product = TEXTS.astype(np.float64) @ parameters["weight"] - parameters["mean"]
    wanted = product / np.sqrt(parameters["var"] + 1e-5) + parameters["shift"]
    np.testing.assert_allclose(found.as_numpy("y"), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.array([["a", None]], object), "Python objects, which is not read; store text as str"),
        (np.array([[b"\xff", b""]]), "bytes that are not UTF-8"),
        (np.array([["a"]]), "has shape"),
        (np.ones((1, 2), np.float32), "is float32"),
    ],
)
def test_inputs_that_are_no_text_for_the_network_are_rejected(
    source: Path, tmp_path: Path, array: np.ndarray, says: str
) -> None:
    np.savez(tmp_path / "inputs.npz", x=array)
    with pytest.raises(ModelInputError, match=says):
        normfold.export(source, tmp_path / "repository", inputs=tmp_path / "inputs.npz")
    assert not (tmp_path / "repository").exists()

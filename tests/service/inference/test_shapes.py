"""Inputs of any shape that ONNX can state: free, zero and no sizes, and with a default."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import tritonclient.http
from onnx import helper

import normfold
from normfold.contract.manifest import TensorSpec, sha256_of
from normfold.errors import InvalidRequestError
from normfold.service.app import create_app
from normfold.service.batching.thread_pool import INLINE_BYTES
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter
from tests.support.infer_bodies import JSON_LENGTH
from tests.support.service import Service, serve_app


def fp32(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, datatype="FP32", shape=shape)


def write_default(writer: BundleWriter) -> None:
    """Write `default`, whose input s has the default 3."""
    folder = writer.write(
        "default",
        1,
        [helper.make_node("Mul", ["x", "s"], ["y"])],
        [fp32("x", -1, 2)],
        [fp32("y", -1, 2)],
        {"s": np.array([3], np.float32)},
    )
    model = onnx.load(folder / "model.onnx")
    model.graph.input.append(helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, [1]))
    onnx.save(model, folder / "model.onnx")
    writer.change_manifest(folder, files={"model.onnx": sha256_of(folder / "model.onnx")})


@pytest.fixture(scope="module")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of networks with unusual shapes."""
    writer = BundleWriter(tmp_path_factory.mktemp("repository"))
    mul, add = helper.make_node("Mul", ["x", "s"], ["y"]), helper.make_node("Add", ["a", "b"], ["y"])
    writer.write("scaled", 1, [mul], [fp32("x", -1, 2), fp32("s")], [fp32("y", -1, 2)], batchable=False)
    writer.write("scalars", 1, [add], [fp32("a"), fp32("b")], [fp32("y")], batchable=False)
    concat = helper.make_node("Concat", ["x", "z"], ["y"], axis=1)
    writer.write("empty", 1, [concat], [fp32("x", -1, 2), fp32("z", -1, 0)], [fp32("y", -1, 2)])
    write_default(writer)
    settings = Settings(repository=writer.root, provider="cpu")
    with serve_app(create_app(settings), settings) as service:
        service.wait_until_loaded()
        yield service


def tensor(name: str, data: Any, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": list(shape), "data": data}


def infer(service: Service, model: str, *inputs: dict[str, Any]) -> httpx.Response:
    return service.client.post(f"/v2/models/{model}/infer", json={"inputs": inputs})


def values(response: httpx.Response) -> Any:
    """Return the data of the only output, in its shape."""
    assert response.status_code == 200, response.text
    [output] = response.json()["outputs"]
    return np.array(output["data"]).reshape(output["shape"]).tolist()


@pytest.mark.parametrize("value", [2, 2.0, [2]])
def test_scalar_input_is_one_value(shaped: Service, value: Any) -> None:
    assert values(infer(shaped, "scaled", tensor("x", [1, 2, 3, 4], 2, 2), tensor("s", value))) == [[2, 4], [6, 8]]
    assert values(infer(shaped, "scalars", tensor("a", value), tensor("b", 1))) == 3
    large = [1.5] * INLINE_BYTES
    found = values(infer(shaped, "scaled", tensor("x", large, len(large) // 2, 2), tensor("s", value)))
    assert found == [[3.0, 3.0]] * (len(large) // 2)


@pytest.mark.parametrize("value", [[], [1, 2], [[2]], "2", None, True, {}])
def test_scalar_input_that_is_not_one_number_is_rejected(shaped: Service, value: Any) -> None:
    assert infer(shaped, "scalars", tensor("a", value), tensor("b", 1)).status_code == 400


def test_input_of_a_size_zero_has_no_data(shaped: Service) -> None:
    rows = tensor("x", [1, 2, 3, 4], 2, 2)
    assert values(infer(shaped, "empty", rows, tensor("z", [], 2, 0))) == [[1, 2], [3, 4]]
    assert values(infer(shaped, "empty", rows, tensor("z", [[], []], 2, 0))) == [[1, 2], [3, 4]]
    assert infer(shaped, "empty", rows, tensor("z", [1], 2, 0)).status_code == 400
    assert infer(shaped, "empty", rows, tensor("z", [], 3, 0)).status_code == 400


def test_triton_client_sends_scalars_and_empty_tensors(shaped: Service) -> None:
    client = tritonclient.http.InferenceServerClient(shaped.client.base_url.netloc.decode())
    for model, arrays, wanted in (
        ("scalars", {"a": np.float32(1), "b": np.float32(2)}, 3),
        ("empty", {"x": np.ones((1, 2), np.float32), "z": np.ones((1, 0), np.float32)}, [[1, 1]]),
        ("default", {"x": np.ones((1, 2), np.float32), "s": np.full(1, 7, np.float32)}, [[7, 7]]),
    ):
        inputs = []
        for name, array in arrays.items():
            inputs.append(tritonclient.http.InferInput(name, list(np.shape(array)), "FP32"))
            inputs[-1].set_data_from_numpy(np.asarray(array))
        outputs = [tritonclient.http.InferRequestedOutput("y", binary_data=True)]
        assert client.infer(model, inputs, outputs=outputs).as_numpy("y").tolist() == wanted


def test_input_with_a_default_may_be_given_or_left_out(shaped: Service) -> None:
    rows = tensor("x", [1, 2, 3, 4], 2, 2)
    assert values(infer(shaped, "default", rows)) == [[3, 6], [9, 12]]
    assert values(infer(shaped, "default", rows, tensor("s", [5], 1))) == [[5, 10], [15, 20]]
    assert values(infer(shaped, "default", tensor("s", [5], 1), rows)) == [[5, 10], [15, 20]]
    assert values(infer(shaped, "default", rows)) == [[3, 6], [9, 12]]
    missing = infer(shaped, "default", tensor("s", [5], 1))
    assert (missing.status_code, "input 'x' is missing" in missing.json()["error"]) == (400, True)
    wrong = infer(shaped, "default", rows, tensor("s", [5, 6], 2))
    assert (wrong.status_code, "'s' has the shape [2]" in wrong.json()["error"]) == (400, True)


def test_body_of_one_raw_tensor_leaves_out_inputs_with_a_default(shaped: Service) -> None:
    body = np.ones((1, 2), np.float32).tobytes()
    response = shaped.client.post("/v2/models/default/infer", content=body, headers={JSON_LENGTH: "0"})
    assert response.content[-8:] == np.full((1, 2), 3, np.float32).tobytes()


def test_metadata_says_which_inputs_have_a_default(shaped: Service) -> None:
    required = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
    optional = {"name": "s", "datatype": "FP32", "shape": [1], "parameters": {"optional": True}}
    assert shaped.client.get("/v2/models/default").json()["inputs"] == [required, optional]
    listed = {model["name"]: model for model in shaped.client.get("/v1/models").json()["models"]}
    assert listed["default"]["versions"][0]["inputs"] == [required, optional]
    assert shaped.client.get("/v2/models/default/config").json()["input"] == [
        {"name": "x", "data_type": "TYPE_FP32", "dims": [2]},
        {"name": "s", "data_type": "TYPE_FP32", "dims": [1], "optional": True},
    ]


@pytest.mark.slow
def test_requests_with_and_without_a_default_are_never_mixed(shaped: Service) -> None:
    """Both at once on one connection each: a batch of them would give one the other's default."""

    def ask(number: int) -> bool:
        rows, scale = tensor("x", [number, 1], 1, 2), number % 5
        given = [tensor("s", [scale], 1)] if scale else []
        return bool(values(infer(shaped, "default", rows, *given)) == [[number * (scale or 3), scale or 3]])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(200)))
    assert json.loads(shaped.client.get("/v2/models/default/stats").content)["model_stats"][0]["inference_count"] >= 200


def test_python_api_takes_inputs_with_a_default(tmp_path: Path) -> None:
    write_default(BundleWriter(tmp_path))
    rows = np.ones((1, 2), np.float32)
    with normfold.load_repository(tmp_path) as repository:
        model = repository["default"]
        assert model.infer({"x": rows})["y"].tolist() == [[3, 3]]
        assert model.infer({"x": rows, "s": np.full(1, 5, np.float32)})["y"].tolist() == [[5, 5]]
        with pytest.raises(InvalidRequestError, match="takes the inputs"):
            model.infer({"s": np.full(1, 5, np.float32)})

"""The infer route: values, shapes, outputs and errors as JSON."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.infer_bodies import JSON_LENGTH, binary_input
from tests.support.service import Service

LIMITS = {
    **{f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}


def infer(served: Service, model: str, body: Any, **kwargs: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return served.client.post(f"/v2/models/{model}/infer", content=content, **kwargs)


def tensor(datatype: str, shape: list[int], data: Any, name: str = "input") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def refusal(served: Service, model: str, body: Any) -> str:
    response = infer(served, model, body)
    assert response.status_code == 400, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"error"}
    return response.json()["error"]


def test_infer_returns_the_networks_outputs(served: Service) -> None:
    data = np.arange(16, dtype=np.float32)
    response = infer(served, "digits/versions/1", {"inputs": [tensor("FP32", [1, 1, 4, 4], data.tolist())]})
    columns = data.reshape(4, 4).sum(axis=0)[:3]
    assert response.json() == {
        "model_name": "digits",
        "model_version": "1",
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 3], "data": columns.tolist()}],
    }


def test_request_without_a_version_goes_to_the_highest(served: Service) -> None:
    body = {"inputs": [tensor("FP32", [1, 1, 4, 4], [0.0] * 16)]}
    response = infer(served, "digits", body).json()
    assert response["model_version"] == "2"
    assert response["outputs"][0]["data"] == [1, 1, 1]


def test_id_is_returned_only_if_given(served: Service) -> None:
    body = {"id": "a b", "inputs": [tensor("BOOL", [1, 1], [True])]}
    assert infer(served, "identity-bool", body).json()["id"] == "a b"


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/octet-stream", "application/json"])
def test_content_type_of_the_request_is_ignored(served: Service, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    body = {"inputs": [tensor("BOOL", [1, 1], [True])]}
    assert infer(served, "identity-bool", body, headers=headers).status_code == 200


@pytest.mark.parametrize(("datatype", "limits"), LIMITS.items())
def test_integers_keep_every_value_of_their_type(served: Service, datatype: str, limits: tuple[int, int]) -> None:
    body = {"inputs": [tensor(datatype, [1, 2], list(limits))]}
    assert infer(served, f"identity-{datatype.lower()}", body).json()["outputs"][0]["data"] == list(limits)


@pytest.mark.parametrize(("datatype", "limits"), LIMITS.items())
@pytest.mark.parametrize("side", [0, 1])
def test_integers_out_of_range_are_rejected(served: Service, datatype: str, limits: tuple[int, int], side: int) -> None:
    wrong = limits[side] + (1 if side else -1)
    text = refusal(served, f"identity-{datatype.lower()}", {"inputs": [tensor(datatype, [1, 1], [wrong])]})
    assert "'input'" in text
    assert datatype in text


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("FP32", [0.1, -3.4028234663852886e38]),
        ("FP32", [1, 2]),
        ("FP64", [0.1, 1e308]),
        ("BOOL", [True, False]),
        ("BYTES", ["", "größer ✓"]),
    ],
)
def test_other_types_keep_their_values(served: Service, datatype: str, data: list[Any]) -> None:
    body = {"inputs": [tensor(datatype, [2, 1], data)]}
    output = infer(served, f"identity-{datatype.lower()}", body).json()["outputs"][0]
    assert output["shape"] == [2, 1]
    got = np.array(output["data"], np.float32) if datatype == "FP32" else output["data"]
    assert list(got) == list(np.array(data, np.float32) if datatype == "FP32" else data)


@pytest.mark.parametrize(
    ("datatype", "wrong", "shown"),
    [
        ("FP32", True, "true"),
        ("FP32", "1", "'1'"),
        ("FP32", None, "null"),
        ("FP32", {}, "an object"),
        ("FP32", 1e39, "1e+39"),
        ("INT32", 1.0, "1.0"),
        ("INT32", True, "true"),
        ("BOOL", 1, "1"),
        ("BYTES", 1, "1"),
        ("BYTES", ["x"], "nested"),
    ],
)
def test_value_of_another_type_is_rejected_and_quoted(served: Service, datatype: str, wrong: Any, shown: str) -> None:
    right = {"FP32": 1.5, "INT32": 1, "BOOL": True, "BYTES": "a"}[datatype]
    text = refusal(served, f"identity-{datatype.lower()}", {"inputs": [tensor(datatype, [1, 2], [right, wrong])]})
    assert shown in text


@pytest.mark.parametrize(
    ("shape", "data"),
    [([2, 3], [[1, 2, 3], [4, 5, 6]]), ([2, 3], [1, 2, 3, 4, 5, 6]), ([0, 3], []), ([2, 0], [[], []]), ([2, 0], [])],
)
def test_data_may_be_flat_or_nested_and_empty(served: Service, shape: list[int], data: Any) -> None:
    output = infer(served, "identity-int8", {"inputs": [tensor("INT8", shape, data)]}).json()["outputs"][0]
    assert output["shape"] == shape
    assert output["data"] == np.ravel(np.array(data, int)).tolist()


@pytest.mark.parametrize(
    ("shape", "data", "says"),
    [
        ([2, 3], [1, 2, 3, 4, 5], "5 values where its shape [2, 3] needs 6"),
        ([2, 3], [[1, 2], [3, 4], [5, 6]], "nested as [3, 2]"),
        ([2, 3], [[1, 2, 3], [4, 5]], "not nested evenly"),
        ([2, 3], [[1, 2, 3], 4], "not nested evenly"),
        ([10**9, 10**9], [], "0 values"),
        ([2], [1, 2], "shape [2]; the model takes [-1, -1]"),
        ([-1, 2], [1, 2], "non-negative integers"),
        ([True, 1], [1], "non-negative integers"),
        ([1.0, 1], [1], "non-negative integers"),
        ("1,1", [1], "non-negative integers"),
        ([1, 1], 1, "no list of data"),
        ([1, 1], None, "no list of data"),
    ],
)
def test_shape_that_does_not_fit_is_rejected(served: Service, shape: Any, data: Any, says: str) -> None:
    assert says in refusal(served, "identity-int8", {"inputs": [tensor("INT8", shape, data)]})


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "The body is empty"),
        (b"{", "is not JSON"),
        (b"[]", "not an object"),
        (b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [NaN]}]}', "is not JSON"),
        (b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [Infinity]}]}', "is not JSON"),
        (b"\xff", "is not JSON"),
        ({}, "no list 'inputs'"),
        ({"inputs": {}}, "no list 'inputs'"),
        ({"inputs": []}, "The input 'input' is missing"),
        ({"inputs": [1]}, "index 0"),
        ({"inputs": [{}]}, "index 0"),
        ({"inputs": [tensor("FP32", [1, 1], [1], "other")]}, "no input 'other'; the model takes 'input'"),
        ({"inputs": [tensor("FP32", [1, 1], [1])] * 2}, "'input' is given twice"),
        ({"inputs": [tensor("INT8", [1, 1], [1])]}, "datatype INT8; the model takes FP32"),
        ({"inputs": [tensor("FLOAT", [1, 1], [1])]}, "the datatype 'FLOAT'"),
        ({"inputs": [tensor("X" * 200, [1, 1], [1])]}, f"the datatype '{'X' * 78}…; the protocol"),
        ({"inputs": [tensor(["FP32"], [1, 1], [1])]}, "a datatype that is not a string"),  # type: ignore[arg-type]
        (b'{"inputs": [{"name": "input", "datatype": ' + b"[" * 1015 + b"]" * 1015 + b"}]}", "not a string"),
        ({"inputs": [tensor("FP32", [1] * 200, [1])]}, "1, …; the model takes [-1, -1]"),
        ({"inputs": [tensor("FP32", [1, 1], [1], "n" * 200)]}, "n…; the model takes 'input'"),
        ({"inputs": [tensor("FP32", [1, 1], [1]) | {"parameters": 1}]}, "parameters are not an object"),
        ({"parameters": [], "inputs": []}, "parameters are not an object"),
        ({"id": 7, "inputs": []}, "id is not a string"),
        ({"inputs": [tensor("FP32", [1, 1], [1])], "outputs": [{"name": "x"}]}, "no output 'x'; the model gives"),
        ({"inputs": [tensor("FP32", [1, 1], [1])], "outputs": [{"name": "output"}] * 2}, "given twice"),
        ({"inputs": [tensor("FP32", [1, 1], [1])], "outputs": 1}, "no list 'outputs'"),
        ({"inputs": [tensor("FP32", [1, 1], [1])], "outputs": {}}, "no list 'outputs'"),
        ({"inputs": [tensor("FP32", [1, 1], [1])], "outputs": False}, "no list 'outputs'"),
    ],
)
def test_body_that_breaks_the_protocol_is_rejected(served: Service, body: Any, says: str) -> None:
    assert says in refusal(served, "identity-fp32", body)


def test_error_of_a_request_with_an_id_begins_with_it(served: Service) -> None:
    assert refusal(served, "identity-fp32", {"id": "r-1", "inputs": []}).startswith("[request id: r-1] The input")
    response = infer(served, "none", {"id": "r-2", "inputs": []})
    assert response.status_code == 404
    assert response.json()["error"].startswith("[request id: r-2] There is no model 'none'")


def test_fp16_as_json_is_rejected_in_requests_and_responses(served: Service) -> None:
    assert "no JSON form" in refusal(served, "identity-fp16", {"inputs": [tensor("FP16", [1, 1], [1.0])]})


@pytest.mark.parametrize("outputs", [None, []])
def test_missing_or_empty_list_of_outputs_requests_all(served: Service, outputs: Any) -> None:
    response = infer(served, "identity-int8", {"inputs": [tensor("INT8", [1, 1], [1])], "outputs": outputs})
    assert [output["name"] for output in response.json()["outputs"]] == ["output"]


def test_model_with_several_inputs_returns_the_requested_outputs(served: Service) -> None:
    body: dict[str, Any] = {
        "inputs": [tensor("BOOL", [2], [True, False], "flag"), tensor("INT64", [2, 2], [1, 2, 3, 4], "count")],
        "outputs": [{"name": "opposite", "parameters": {"binary_data": False}}, {"name": "product"}],
    }
    outputs = infer(served, "pair", body).json()["outputs"]
    assert [(output["name"], output["data"]) for output in outputs] == [
        ("opposite", [False, True]),
        ("product", [3.0, 7.0]),
    ]
    body["outputs"] = body["outputs"][1:]
    assert [output["name"] for output in infer(served, "pair", body).json()["outputs"]] == ["product"]


def test_inputs_that_differ_in_rows_are_rejected(served: Service) -> None:
    body = {"inputs": [tensor("BOOL", [1], [True], "flag"), tensor("INT64", [2, 2], [1, 2, 3, 4], "count")]}
    assert "number of rows" in refusal(served, "pair", body)


def test_output_that_is_not_finite_is_an_error_and_never_null(served: Service) -> None:
    body = {"id": "x", "inputs": [tensor("FP32", [2, 1], [1, -1])]}
    response = infer(served, "one-by-one", body)
    assert response.status_code == 422
    assert response.json() == {
        "error": "[request id: x] Output 'output' holds NaN or Infinity for these inputs, which JSON cannot carry; "
        "infer returns it as binary data."
    }


@pytest.mark.parametrize("binary", [True, False])
def test_classification_carries_nan_as_the_lowest_value(served: Service, binary: bool) -> None:
    values = np.array([[1, np.nan, np.inf, -np.inf]], "<f4")
    head = json.dumps(
        {
            "inputs": [tensor("FP32", [1, 4], None) | {"parameters": {"binary_data_size": values.nbytes}}],
            "outputs": [{"name": "output", "parameters": {"classification": 4, "binary_data": binary}}],
        }
    ).encode()
    response = served.client.post(
        "/v2/models/identity-fp32/infer", content=head + values.tobytes(), headers={JSON_LENGTH: str(len(head))}
    )
    assert response.status_code == 200
    texts = [b"inf:2", b"1.000000:0", b"nan:1", b"-inf:3"]
    if binary:
        assert response.content.endswith(b"".join(len(text).to_bytes(4, "little") + text for text in texts))
    else:
        assert response.json()["outputs"][0]["data"] == [text.decode() for text in texts]


def test_null_in_place_of_an_optional_field_counts_as_absent(served: Service) -> None:
    parameters = {"binary_data_output": None, "timeout": None, "priority": None}
    values = np.ones((1, 2), np.float32)
    for request_parameters in (None, {}, parameters):
        for given in (None, {}, {"binary_data": None, "classification": None}):
            body = {
                "id": None,
                "parameters": request_parameters,
                "inputs": [tensor("FP32", [1, 2], [1, 1]) | {"parameters": given}],
                "outputs": [{"name": "output", "parameters": given}],
            }
            assert infer(served, "identity-fp32", body).json()["outputs"][0]["data"] == [1, 1]
            large = body | {"inputs": [tensor("FP32", [1, 20_000], [1] * 20_000) | {"parameters": given}]}
            assert infer(served, "identity-fp32", large).json()["outputs"][0]["data"] == [1] * 20_000
    sent = {"parameters": None, "outputs": None, "inputs": [binary_input(8, data=None)]}
    head = json.dumps(sent).encode()
    response = served.client.post(
        "/v2/models/identity-fp32/infer", content=head + values.tobytes(), headers={JSON_LENGTH: str(len(head))}
    )
    assert response.json()["outputs"][0]["data"] == [1, 1]


@pytest.mark.parametrize("wrong", [[], "", 0, False])
def test_wrong_optional_field_is_rejected_even_if_it_is_false(served: Service, wrong: Any) -> None:
    entry, output = tensor("FP32", [1, 2], [1, 1]), {"name": "output"}
    for body in (
        {"inputs": [entry], "parameters": wrong},
        {"inputs": [entry | {"parameters": wrong}]},
        {"inputs": [entry], "outputs": [output | {"parameters": wrong}]},
    ):
        assert "not an object" in refusal(served, "identity-fp32", body)


def test_large_body_is_decoded_in_a_thread_with_the_same_response(served: Service) -> None:
    data = np.arange(20_000) % 100
    response = infer(served, "identity-int8", {"inputs": [tensor("INT8", [2, 10_000], data.tolist())]})
    assert response.json()["outputs"][0]["data"] == data.tolist()

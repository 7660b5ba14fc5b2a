"""The simdjson decoder: for every body its result is that of the strict decoder, or None."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normfold.contract.manifest import TensorSpec
from normfold.service.codec.json_tensors import DTYPES
from normfold.service.codec.request import decode_request, parse_object
from normfold.service.codec.signature import ModelSignature
from normfold.service.codec.simdjson_decoder import parse_large
from normfold.service.errors import InvalidRequestError
from tests.support.service import Service

NUMBERS = st.integers(-(2**66), 2**66) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
DATA = st.recursive(NUMBERS | st.just("["), lambda inner: st.lists(inner, max_size=4), max_leaves=12)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["a", "["]),
        "datatype": st.sampled_from([*DTYPES, "["]),
        "shape": st.lists(st.integers(0, 4), max_size=3),
        "data": DATA,
        "parameters": st.just({}),
    },
)
REQUEST = st.fixed_dictionaries(
    {}, optional={"inputs": st.lists(ENTRY, max_size=2) | DATA, "id": st.text(max_size=3), "outputs": DATA}
)


def decoded(record: Any, datatype: str) -> Any:
    """Return the decoded tensor of a request, as bytes, shape and dtype; or the message of its error."""
    signature = ModelSignature([TensorSpec(name="a", datatype=datatype, shape=(-1, -1))], ())
    try:
        array = decode_request(record, signature).tensors["a"]
    except InvalidRequestError as error:
        return str(error)
    return array.tobytes(), array.shape, array.dtype


@pytest.mark.slow
@given(REQUEST, st.sampled_from(list(DTYPES)))
def test_simdjson_result_is_the_strict_decoders_or_none(request: dict[str, Any], datatype: str) -> None:
    body = json.dumps(request).encode()

    record = parse_large(body)

    if record is not None:
        assert decoded(record, datatype) == decoded(parse_object(body), datatype)


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT8", "UINT8", "INT64", "UINT64"])
@pytest.mark.parametrize("nested", [True, False])
def test_valid_request_is_decoded_by_simdjson(datatype: str, nested: bool) -> None:
    array = np.arange(12, dtype=DTYPES[datatype]).reshape(3, 4)
    data = array.tolist() if nested else array.ravel().tolist()
    body = json.dumps({"id": "x]", "inputs": [{"name": "a", "datatype": datatype, "shape": [3, 4], "data": data}]})

    record = parse_large(body.encode())

    assert record is not None
    assert record["id"] == "x]"
    assert decoded(record, datatype) == (array.tobytes(), (3, 4), array.dtype)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("FP32", "[1, [2]]"),
        ("FP32", "[[1], [2, 3, 4]]"),
        ("FP32", "[1, true]"),
        ("FP32", "[1, null]"),
        ("FP32", "[1e39]"),
        ("FP32", "[NaN]"),
        ("INT8", "[128]"),
        ("INT32", "[1.0]"),
        ("UINT8", "[-1]"),
        ("BYTES", '["a"]'),
        ("BOOL", "[true]"),
        ("FP16", "[1]"),
    ],
)
def test_unusual_request_is_left_to_the_strict_decoder(datatype: str, data: str) -> None:
    body = f'{{"inputs": [{{"name": "a", "datatype": "{datatype}", "shape": [1], "data": {data}}}]}}'

    assert parse_large(body.encode()) is None


def test_byte_order_mark_is_left_to_the_strict_decoder_and_rejected() -> None:
    body = b'\xef\xbb\xbf{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1], "data": [1]}]}'

    assert parse_large(body[3:]) is not None
    assert parse_large(body) is None
    with pytest.raises(InvalidRequestError, match="not JSON"):
        parse_object(body)


@pytest.mark.parametrize("text", ["[", "\\u005b", "\\\\["])
@pytest.mark.parametrize("data", ["[1, [2]]", "[[1], 2]"])
def test_bracket_in_a_string_does_not_hide_a_list_in_the_data(text: str, data: str) -> None:
    body = f'{{"id": "{text}", "inputs": [{{"name": "a", "datatype": "FP32", "shape": [2], "data": {data}}}]}}'

    assert parse_large(body.encode()) is None


@pytest.mark.slow
def test_list_is_found_among_many_brackets() -> None:
    data = np.arange(2_000_000 // 8).reshape(-1, 2).tolist()
    body = json.dumps({"inputs": [{"name": "a", "datatype": "FP32", "shape": [125_000, 2], "data": data}]})

    assert parse_large(body.encode()) is not None
    assert parse_large(body.replace("[2, 3]", "[2, [3]]").encode()) is None


def test_last_value_of_a_repeated_key_counts() -> None:
    entry = '"name": "a", "datatype": "FP32", "shape": [1, 1], "data": [[1]], "data": [[3]]'
    body = f'{{"inputs": [], "inputs": [{{{entry}}}]}}'.encode()

    record = parse_large(body)

    assert decoded(record or parse_object(body), "FP32")[0] == np.float32(3).tobytes()


@pytest.mark.slow
def test_large_json_body_is_served(served: Service) -> None:
    data = np.arange(3600, dtype=np.float32).reshape(60, 60) / 7
    entry = {"name": "input", "datatype": "FP32", "shape": [60, 60], "data": data.tolist()}

    response = served.client.post("/v2/models/identity-fp32/infer", json={"inputs": [entry]})

    assert response.json()["outputs"][0]["data"] == pytest.approx(data.ravel().tolist())

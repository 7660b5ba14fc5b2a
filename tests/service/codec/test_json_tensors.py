"""Tensors as JSON: strict decoding of values, shapes and whole requests; encoding of outputs."""

from __future__ import annotations

import json
from time import perf_counter
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normfold.contract.manifest import FoldSummary, Manifest, TensorSpec
from normfold.service.codec.json_tensors import DTYPES, array_from_data, array_from_nested
from normfold.service.codec.request import decode_request, parse_object
from normfold.service.codec.response import encode_response
from normfold.service.codec.signature import ModelSignature
from normfold.service.errors import InvalidRequestError


def encoded(array: np.ndarray, spec: TensorSpec) -> bytes:
    """Return the body of a response with one output."""
    manifest = Manifest(
        name="m",
        version=1,
        created="",
        inputs=(),
        outputs=(spec,),
        batchable=True,
        opset=18,
        fold=FoldSummary(batchnorm_before=0, batchnorm_after=0),
        verification={},
        versions={},
        files={},
    )
    outputs = ModelSignature((), (spec,)).all_outputs[False]
    return b"".join(encode_response(manifest, outputs, {spec.name: array}).pieces)


DATATYPES = st.sampled_from([name for name in DTYPES if name != "FP16"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
)


@pytest.mark.slow
@given(VALUES, DATATYPES)
def test_nested_values_become_a_tensor_or_an_invalid_request(values: Any, datatype: str) -> None:
    try:
        array = array_from_nested(values, datatype, "Input 'x'")
    except InvalidRequestError:
        return
    assert array.dtype == DTYPES[datatype]
    assert array.shape == np.shape(values) or array.size == 0


@pytest.mark.slow
@given(VALUES, DATATYPES, st.lists(st.integers(0, 4), max_size=3))
def test_data_become_a_tensor_of_the_shape_or_an_invalid_request(values: Any, datatype: str, shape: list[int]) -> None:
    try:
        array = array_from_data(values, datatype, shape, "Input 'x'")
    except InvalidRequestError:
        return
    assert (array.dtype, list(array.shape)) == (DTYPES[datatype], shape)


ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["a", "b"]) | VALUES,
        "datatype": DATATYPES | VALUES,
        "shape": st.lists(st.integers(-2, 3), max_size=3) | VALUES,
        "data": VALUES,
        "parameters": VALUES,
    },
)
REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "id": VALUES,
        "parameters": VALUES,
        "inputs": st.lists(ENTRY, max_size=3) | VALUES,
        "outputs": st.lists(ENTRY, max_size=2) | VALUES,
    },
)
SPECS = (TensorSpec(name="a", datatype="FP32", shape=(-1, 2)), TensorSpec(name="b", datatype="BOOL", shape=()))


@pytest.mark.slow
@given(REQUEST, st.integers(1, 2))
def test_request_is_decoded_or_invalid(record: dict[str, Any], count: int) -> None:
    try:
        request = decode_request(record, ModelSignature(SPECS[:count], SPECS))
    except InvalidRequestError:
        return
    assert set(request.tensors) == {spec.name for spec in SPECS[:count]}
    for spec in SPECS[:count]:
        assert request.tensors[spec.name].dtype == DTYPES[spec.datatype]
        assert request.tensors[spec.name].ndim == len(spec.shape)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_body_is_a_json_object_or_invalid(body: bytes) -> None:
    try:
        record = parse_object(body)
    except InvalidRequestError:
        return
    assert record == orjson.loads(body)


@pytest.mark.slow
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20))
def test_float32_values_survive_json_bit_by_bit(values: list[float]) -> None:
    array = np.array(values, np.float32)
    spec = TensorSpec(name="a", datatype="FP32", shape=(-1,))
    body = json.loads(encoded(array, spec))
    request = decode_request({"inputs": body["outputs"]}, ModelSignature([spec], [spec]))
    assert request.tensors["a"].tobytes() == array.tobytes()


def test_scalar_shape_takes_one_value() -> None:
    assert array_from_data([5], "INT8", [], "x") == 5
    with pytest.raises(InvalidRequestError, match="2 values where its shape"):
        array_from_data([5, 6], "INT8", [], "x")


def test_transposed_output_is_encoded_in_row_major_order() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    spec = TensorSpec(name="a", datatype="FP32", shape=(-1, 2))
    assert json.loads(encoded(array, spec))["outputs"][0]["data"] == [0, 3, 1, 4, 2, 5]


def test_nesting_ends_at_a_size_of_0() -> None:
    for data in ([[], []], []):
        assert array_from_data(data, "INT8", [2, 0, 3], "x").shape == (2, 0, 3)
    with pytest.raises(InvalidRequestError, match=r"nested as \[3, 0\] where its shape is \[2, 0, 3\]"):
        array_from_data([[], [], []], "INT8", [2, 0, 3], "x")


def test_shape_of_many_sizes_is_rejected_before_they_are_multiplied() -> None:
    sizes = [2**64 - 1] * 100_000  # whose product takes a minute
    record = {"inputs": [{"name": "a", "datatype": "FP32", "shape": [0, *sizes], "data": []}]}
    started = perf_counter()
    with pytest.raises(InvalidRequestError, match="has the shape"):
        decode_request(record, ModelSignature(SPECS[:1], ()))
    assert perf_counter() - started < 5


def test_rows_of_an_empty_tensor_are_limited() -> None:
    signature = ModelSignature([TensorSpec(name="a", datatype="FP32", shape=(-1, -1))], ())
    entry = {"name": "a", "datatype": "FP32", "data": []}
    assert decode_request({"inputs": [entry | {"shape": [2**20, 0]}]}, signature).tensors["a"].shape == (2**20, 0)
    with pytest.raises(InvalidRequestError, match="sizes are too large"):
        decode_request({"inputs": [entry | {"shape": [2**20 + 1, 0]}]}, signature)

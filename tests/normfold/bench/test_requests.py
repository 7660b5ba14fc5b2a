"""The requests of a load: tensors of every datatype, samples, and which forms they can be sent in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from normfold._bench.connections.grpc_connection import INFER
from normfold._bench.model import Model, ModelInput, read_model
from normfold._bench.requests import pool
from normfold._bench.requests.messages import Format, choose_format
from normfold._bench.requests.pool import make_messages
from normfold._bench.requests.random_inputs import find_shapes, make_inputs, rows_of
from normfold._bench.requests.samples import read_samples
from normfold._bench.target import parse_target
from normfold.errors import ArgumentError
from tests.support.bundles import ONNX_TYPES, BundleWriter
from tests.support.raw_http import connect
from tests.support.service import StartService

HTTP, GRPC = parse_target("http://127.0.0.1:8000", None), parse_target("grpc://127.0.0.1:8001", None)


def model_of(*inputs: tuple[str, str, tuple[int, ...]], takes_binary: bool = True) -> Model:
    """Return a model with inputs of these names, datatypes and shapes."""
    return Model("m", None, tuple(ModelInput(*one) for one in inputs), takes_binary)


@pytest.mark.slow
def test_service_answers_random_requests_of_every_datatype(bundles: BundleWriter, start: StartService) -> None:
    for datatype in ONNX_TYPES:
        bundles.identity(datatype, datatype)
    bundles.identity("FP32", "scalar", shape=(), batchable=False)
    service = start(bundles.root, grpc_port=0)
    http = parse_target(str(service.client.base_url), None)
    rpc = parse_target(f"grpc://127.0.0.1:{service.app.state.grpc_server.port}", None)
    with grpc.insecure_channel(rpc.authority) as channel, connect(service.client) as connection:
        for name in (*ONNX_TYPES, "scalar"):
            shapes = {} if name == "scalar" else {"input": [2, 3]}
            for form in Format:
                if (name, form) == ("FP16", Format.JSON):
                    continue
                model = read_model(http, name, None, 20)
                messages, rows = make_messages(model, http, form, 1, shapes, None, 0)
                connection.sendall(messages[0])
                assert connection.recv(65536).startswith(b"HTTP/1.1 200"), (name, form)
                assert rows == (1 if name == "scalar" else 2)
            assert read_model(rpc, name, None, 20).inputs == model.inputs
            channel.unary_unary(INFER)(make_messages(model, rpc, Format.BINARY, 1, shapes, None, 0)[0][0])


def test_inputs_take_rows_in_a_free_first_axis() -> None:
    model = model_of(("a", "FP32", (-1, 3)), ("b", "INT64", (-1,)), ("c", "BOOL", ()))
    shapes = find_shapes(model, 4, {})
    assert shapes == {"a": (4, 3), "b": (4,), "c": ()}
    assert rows_of(shapes) == 4
    tensors = make_inputs(model, shapes, np.random.default_rng(0))
    assert {name: (tensor.shape, tensor.dtype.name) for name, tensor in tensors.items()} == {
        "a": ((4, 3), "float32"),
        "b": ((4,), "int64"),
        "c": ((), "bool"),
    }


def test_random_values_are_standard_normal_or_small_or_pixels() -> None:
    model = model_of(("float", "FP32", (4000,)), ("index", "INT32", (4000,)), ("pixel", "UINT8", (4000,)))
    made = make_inputs(model, find_shapes(model, 1, {}), np.random.default_rng(0))
    assert made["float"].mean() == pytest.approx(0, abs=0.1)
    assert made["float"].std() == pytest.approx(1, abs=0.1)
    assert set(made["index"].tolist()) == {0, 1}
    assert set(made["pixel"].tolist()) == set(range(256))


def test_fixed_first_axis_is_the_rows_of_a_request() -> None:
    model = model_of(("a", "FP32", (8, 3)))
    assert rows_of(find_shapes(model, 1, {})) == rows_of(find_shapes(model, 8, {})) == 8
    with pytest.raises(ArgumentError, match=r"`rows` is 2, but no input has so many; .* a \[8, 3\]"):
        find_shapes(model, 2, {})


def test_free_size_without_a_shape_is_named_with_an_example() -> None:
    model = model_of(("ids", "INT64", (-1, -1)))
    with pytest.raises(ArgumentError, match=r"'ids' has the shape \[-1, -1\]; .* for example ids=2x8\.$"):
        find_shapes(model, 2, {})
    assert find_shapes(model, 1, {"ids": [2, 16]}) == {"ids": (2, 16)}


def test_messages_differ_and_stay_within_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(("a", "FP32", (-1, 100)))
    messages, _ = make_messages(model, HTTP, Format.BINARY, 1, {}, None, 0)
    assert len(set(messages)) == pool.MAX_MESSAGES
    monkeypatch.setattr(pool, "MAX_BYTES", 3 * len(messages[0]))
    assert len(make_messages(model, HTTP, Format.BINARY, 1, {}, None, 0)[0]) == 3


@pytest.mark.parametrize("size", [10**6, 10**12])
def test_tensor_over_the_limit_is_an_argument_error(size: int) -> None:
    model = model_of(("a", "FP32", (-1, size)))
    with pytest.raises(ArgumentError, match="'a' of shape .* is over 1024 MiB"):
        make_messages(model, HTTP, Format.BINARY, 2000, {}, None, 0)


@pytest.mark.parametrize(
    ("takes_binary", "given", "form"),
    [(True, None, "binary"), (False, None, "json"), (True, "json", "json"), (False, "binary", "binary")],
)
def test_format_is_binary_where_the_service_takes_it(takes_binary: bool, given: str | None, form: str) -> None:
    assert choose_format(model_of(("a", "FP32", (-1,)), takes_binary=takes_binary), HTTP, given) == form


def test_half_floats_have_no_json() -> None:
    with pytest.raises(ArgumentError, match="`format` json cannot carry input 'a'"):
        choose_format(model_of(("a", "FP16", (-1,))), HTTP, "json")
    with pytest.raises(ArgumentError, match="A service that takes no binary tensors cannot take input 'a'"):
        choose_format(model_of(("a", "FP16", (-1,)), takes_binary=False), HTTP, None)
    assert choose_format(model_of(("a", "FP16", (-1,))), GRPC, None) == "binary"


def test_json_is_not_for_grpc() -> None:
    with pytest.raises(ArgumentError, match="`format` json is for HTTP"):
        choose_format(model_of(("a", "FP32", (-1,))), GRPC, "json")


SAMPLES: dict[str, Any] = {"a": np.zeros((5, 2), np.float64), "t": np.array(["x"] * 5)}


def test_samples_are_cut_into_requests(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", **SAMPLES)
    model = model_of(("a", "FP32", (-1, 2)), ("t", "BYTES", (-1,)))
    found = read_samples(tmp_path / "s.npz", model, 2, 16)
    assert [(one["a"].shape, one["a"].dtype.name, one["t"].tolist()) for one in found] == [
        ((2, 2), "float32", ["x", "x"])
    ] * 2
    assert len(read_samples(tmp_path / "s.npz", model, 1, 3)) == 3


def test_samples_of_an_input_without_rows_are_sent_with_each_request(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", a=np.zeros((4, 2)), scale=np.array(2.0), weights=np.ones(3))
    model = model_of(("a", "FP32", (-1, 2)), ("scale", "FP32", ()), ("weights", "FP32", (3,)))
    found = read_samples(tmp_path / "s.npz", model, 2, 16)
    shapes = [{name: tensor.shape for name, tensor in one.items()} for one in found]
    assert shapes == [{"a": (2, 2), "scale": (), "weights": (3,)}] * 2


def test_samples_of_a_fixed_first_axis_are_cut_into_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", a=np.zeros((9, 2), np.float32))
    messages, rows = make_messages(model_of(("a", "FP32", (4, 2))), HTTP, Format.BINARY, 1, {}, tmp_path / "s.npz", 0)
    assert (len(messages), rows) == (2, 4)


@pytest.mark.parametrize(
    ("changes", "rows", "message"),
    [
        ({"a": None}, 1, "has the arrays 't'; the inputs of 'm' are 'a', 't'"),
        ({"a": np.zeros((5, 3))}, 1, "has the shape [5, 3]; requests of 1 row to the input need [-1, 2]"),
        ({"a": np.zeros((), np.float32)}, 1, "has the shape []"),
        ({"a": np.zeros((5, 2), np.int64)}, 1, "has the dtype int64; the input's datatype is FP32"),
        ({"a": np.zeros((4, 2))}, 1, "different numbers of rows: {'a': 4, 't': 5}"),
        ({}, 6, "has 5 rows, fewer than the 6 of a request"),
        ({"a": np.array([{}], object)}, 1, "is not an .npz of arrays"),
    ],
)
def test_samples_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], rows: int, message: str) -> None:
    arrays = {name: array for name, array in (SAMPLES | changes).items() if array is not None}
    np.savez(tmp_path / "s.npz", **arrays)
    model = model_of(("a", "FP32", (-1, 2)), ("t", "BYTES", (-1,)))
    with pytest.raises(ArgumentError, match=re.escape(message)):
        read_samples(tmp_path / "s.npz", model, rows, 16)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken", b"\x93NUMPY"])
def test_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.npz").write_bytes(content)
    with pytest.raises(ArgumentError, match="is not an .npz"):
        read_samples(tmp_path / "s.npz", model_of(("a", "FP32", (-1, 2))), 1, 16)

"""Bodies of every kind against the decoder: right ones in every form, broken ones, and lies.

Whatever comes, it is refused with an error of the client's, or becomes arrays of exactly the datatype and shape that it
declares, of no more bytes than it pays for. Hundreds of examples run with the tests; `make fuzz-wire` goes on for ten
minutes.
"""

from __future__ import annotations

import inspect
import math
import os
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from normfold.contract.errors import NormfoldError
from normfold.contract.manifest import TensorSpec
from normfold.service.codec.binary_tensors import array_to_bytes
from normfold.service.codec.json_tensors import DTYPES, Array
from normfold.service.codec.request import InferRequest, ModelSignature, fits
from normfold.service.error_responses import STATUS
from normfold.service.http.body import decompress
from normfold.service.inference import steps as exchange
from normfold.service.observability.request_trace import RequestTrace
from tests.support.infer_bodies import (
    ANY,
    ENCODINGS,
    GARBAGE,
    GIVEN,
    NUMBERS,
    REQUEST,
    SHAPED,
    WAYS,
    Sent,
    broken,
    compressed,
    declared,
    lies,
    tensors,
    written,
)

EXAMPLES = {"default": 150, "fuzz": 1000}[os.environ.get("HYPOTHESIS_PROFILE", "default")]
LOOK = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

LIMIT = 1_000_000
"""Bytes that a body may have, also once decompressed."""

SEEN: Counter[str] = Counter()
"""How many bodies were taken, and refused."""


def read(sent: Sent, ports: ModelSignature) -> InferRequest:
    """Read a request as the infer route does."""
    body = decompress(memoryview(sent.body), sent.encoding, LIMIT) if sent.encoding else memoryview(sent.body)
    model: Any = SimpleNamespace(signature=ports)
    with usual_depth():
        return exchange.decode(body, sent.front, model, RequestTrace("fuzz"))


@contextmanager
def usual_depth() -> Iterator[None]:
    """Let Python recurse as deep as it does in the service; hypothesis allows itself more."""
    before, depth, frame = sys.getrecursionlimit(), 0, inspect.currentframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    sys.setrecursionlimit(depth + 950)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def outcome(sent: Sent, ports: ModelSignature) -> InferRequest | None:
    """Return what a request becomes, or None if it is refused as the client's fault; anything else is raised."""
    try:
        request = read(sent, ports)
    except NormfoldError as error:
        if not 400 <= STATUS[type(error)] < 500:
            raise
        SEEN["refused"] += 1
        return None
    SEEN["taken"] += 1
    return request


@contextmanager
def large_from(size_bytes: int) -> Iterator[None]:
    """Let bodies over a size go through `service.codec.simdjson_decoder`."""
    before, exchange.INLINE_BYTES = exchange.INLINE_BYTES, size_bytes
    try:
        yield
    finally:
        exchange.INLINE_BYTES = before


def assert_holds(request: InferRequest, ports: ModelSignature, body_bytes: int) -> None:
    """Hold what was taken against what the model declares."""
    assert request.tensors.keys() == ports.inputs.keys()
    for name, array in request.tensors.items():
        spec = ports.inputs[name]
        assert array.dtype == DTYPES[spec.datatype]
        assert array.dtype.isnative
        assert array.flags.aligned
        assert fits(array.shape, spec.shape)
        assert array.nbytes <= 8 * (body_bytes + 1)
        if array.dtype.kind == "O":
            assert {type(element) for element in array.ravel()} <= {str}
    assert request.names == tuple(output.name for output in request.outputs)
    assert set(request.names) <= ports.outputs.keys()
    assert request.timeout_s is None or 0 < request.timeout_s < math.inf


def assert_alike(one: InferRequest | None, other: InferRequest | None) -> None:
    """Hold two readings of one body against each other."""
    assert (one is None) == (other is None)
    if one is None or other is None:
        return
    assert one.tensors.keys() == other.tensors.keys()
    for name, array in one.tensors.items():
        assert_same(other.tensors[name], array)
    for field in ("outputs", "names", "timeout_s", "urgent"):
        assert getattr(one, field) == getattr(other, field)


def assert_same(got: Array, expected: Array) -> None:
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    if expected.dtype.kind == "O":
        assert got.tolist() == expected.tolist()
    else:
        assert got.tobytes() == expected.tobytes()


@LOOK
@given(st.data(), st.lists(tensors(), min_size=1, max_size=2), ENCODINGS)
def test_arrays_come_out_as_they_went_in(data: st.DataObject, values: list[Array], encoding: bytes) -> None:
    specs = [data.draw(declared(array, name)) for array, name in zip(values, "ab", strict=False)]
    ports = ModelSignature(specs, GIVEN)
    for way in WAYS:
        sent = compressed(written(values, specs, way), encoding)
        for size in (0, LIMIT):
            with large_from(size):
                request = outcome(sent, ports)
            assert request is not None, way
            assert_holds(request, ports, len(sent.body) + LIMIT * bool(sent.encoding))
            for array, spec in zip(values, specs, strict=True):
                assert_same(request.tensors[spec.name], array)


@LOOK
@given(st.data(), tensors())
def test_bytes_alone_are_the_array_where_at_most_one_size_is_free(data: st.DataObject, array: Array) -> None:
    spec = data.draw(declared(array, "a"))
    free = [axis for axis, size in enumerate(spec.shape) if size == -1]
    ports, text = ModelSignature([spec], GIVEN), array.dtype.kind == "O"
    body = array.ravel()[0].encode() if text and array.size else array_to_bytes(array)

    request = outcome(Sent(body, 0), ports)

    if text:
        settled = array.size == 1
    else:  # of a tensor without elements the free size cannot be told
        settled = not free or (len(free) == 1 and prod(size for size in spec.shape if size != -1) > 0)
    if settled:
        assert request is not None
        assert_same(request.tensors["a"], array)
    elif request is not None:
        assert_holds(request, ports, len(body))


@LOOK
@given(st.data(), st.lists(tensors(), min_size=1, max_size=2), st.sampled_from(WAYS), ENCODINGS)
def test_what_is_broken_is_refused_or_fits(data: st.DataObject, values: list[Array], way: str, encoding: bytes) -> None:
    specs = [data.draw(declared(array, name)) for array, name in zip(values, "ab", strict=False)]
    ports, right = ModelSignature(specs, GIVEN), written(values, specs, way)
    before = Sent(data.draw(broken(right.body)), right.front)
    sent = compressed(before, encoding)
    if data.draw(st.booleans(), "broken again once compressed"):
        sent = Sent(data.draw(broken(sent.body)), sent.front, sent.encoding)
    assert_refused_or_fits(data.draw(lies(sent)), ports)


def assert_refused_or_fits(sent: Sent, ports: ModelSignature) -> None:
    """Read a request with either parser of JSON: it is refused or fits, and alike."""
    found = []
    for size in (0, LIMIT):
        with large_from(size):
            found.append(outcome(sent, ports))
    assert_alike(*found)
    if found[0] is not None:
        body = decompress(memoryview(sent.body), sent.encoding, LIMIT) if sent.encoding else sent.body
        assert_holds(found[0], ports, len(body))


@LOOK
@given(
    REQUEST | ANY | GARBAGE,
    st.sampled_from(list(DTYPES)),
    st.sampled_from(SHAPED),
    st.none() | st.integers(0, 80),
)
def test_any_structure_is_refused_or_fits(text: str, datatype: str, shape: tuple[int, ...], front: int | None) -> None:
    ports = ModelSignature([TensorSpec(name="a", datatype=datatype, shape=shape)], GIVEN)
    assert_refused_or_fits(Sent(text.encode(), front), ports)


@LOOK
@given(st.lists(NUMBERS, min_size=1, max_size=6), st.sampled_from(["FP32", "FP64", "INT8", "INT64", "UINT64"]))
def test_both_parsers_read_the_same_numbers(numbers: list[str], datatype: str) -> None:
    entry = f'{{"name":"a","datatype":"{datatype}","shape":[{len(numbers)}],"data":[{",".join(numbers)}]}}'
    ports = ModelSignature([TensorSpec(name="a", datatype=datatype, shape=(-1,))], GIVEN)
    assert_refused_or_fits(Sent(f'{{"inputs":[{entry}]}}'.encode()), ports)


# Memory.

CHEAP = st.sampled_from(
    [
        "1,",
        "0.5,",
        "[1],",
        "[],",
        "{},",
        '"",',
        "true,",
        "[[]],",
        '{"a":1},',
        '"a":1,',
        '"\\u0061",',
        "1e5,",
        "-1,",
        " ",
    ]
)


@settings(LOOK, max_examples=EXAMPLES // 3)
@given(CHEAP, st.integers(1, 100_000), st.sampled_from(["FP64", "INT8", "BYTES"]), ENCODINGS, st.booleans())
def test_a_body_takes_memory_in_proportion(piece: str, size: int, datatype: str, encoding: bytes, large: bool) -> None:
    inside = (piece * (size // len(piece))).rstrip(",")
    head = f'{{"inputs":[{{"name":"a","datatype":"{datatype}","shape":[0,1000000],"data":['.encode()
    sent = compressed(Sent(head + inside.encode() + b"]}]}"), encoding)
    ports = ModelSignature([TensorSpec(name="a", datatype=datatype, shape=(-1, -1))], GIVEN)
    tracemalloc.start()
    try:
        with large_from(0 if large else LIMIT):
            outcome(sent, ports)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * (len(head) + len(inside)) + 2**20


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_a_bomb_makes_no_more_than_the_limit(encoding: bytes) -> None:
    sent = compressed(Sent(bytes(50_000_000)), encoding)
    tracemalloc.start()
    try:
        assert outcome(sent, ModelSignature([], GIVEN)) is None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(sent.body) < 100_000
    assert peak < 4 * LIMIT


def test_the_fuzzer_sees_a_planted_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = ModelSignature([TensorSpec(name="a", datatype="FP32", shape=(-1,))], GIVEN)
    sent = Sent(b'{"inputs":[{"name":"a","datatype":"FP32","shape":[1],"data":[1]}]}')
    assert_refused_or_fits(sent, ports)

    monkeypatch.setattr(exchange, "parse_large", lambda _: {"inputs": []})  # of the same body, something else
    with pytest.raises(AssertionError):
        assert_refused_or_fits(sent, ports)

    monkeypatch.setattr(exchange, "parse_object", lambda _: {}["inputs"])  # an error that is not the client's
    with pytest.raises(KeyError):
        assert_refused_or_fits(sent, ports)


PROPERTIES = (
    test_arrays_come_out_as_they_went_in,
    test_bytes_alone_are_the_array_where_at_most_one_size_is_free,
    test_what_is_broken_is_refused_or_fits,
    test_any_structure_is_refused_or_fits,
    test_both_parsers_read_the_same_numbers,
    test_a_body_takes_memory_in_proportion,
)
"""What `make fuzz-wire` goes on with."""

"""Fuzzing of the request decoder: valid bodies in every form, broken bodies, and wrong lengths and encodings.

Every body is rejected with an error of the client's, or becomes arrays of exactly the declared datatype and shape,
with memory in proportion to the body. Hundreds of examples run with the tests; `make fuzz-wire` goes on for ten
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
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from normfold.contract.errors import NormfoldError
from normfold.contract.manifest import TensorSpec
from normfold.service.codec import request as request_module
from normfold.service.codec.binary_tensors import array_to_bytes
from normfold.service.codec.compression import decompress, read_encoding
from normfold.service.codec.json_tensors import DTYPES, Array
from normfold.service.codec.request import InferRequest
from normfold.service.codec.signature import ModelSignature, shape_matches
from normfold.service.error_responses import STATUS
from normfold.service.inference.infer_call import decode_body
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

EXAMPLES = {"default": 150, "quick": 15, "fuzz": 1000}[os.environ.get("HYPOTHESIS_PROFILE", "default")]
LOOK = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

LIMIT = 1_000_000
"""Limit on a body, before and after decompression."""

SEEN: Counter[str] = Counter()
"""How many bodies were decoded, and rejected."""


def plain(sent: Sent) -> memoryview:
    """Return the body without its content coding."""
    encoding = read_encoding({b"content-encoding": sent.encoding})
    body = memoryview(sent.body)
    return body if encoding is None else decompress(body, encoding, LIMIT, lambda _: None)


def read(sent: Sent, signature: ModelSignature) -> InferRequest:
    """Read a request as the infer route does."""
    body = plain(sent)
    with usual_depth():
        return decode_body(body, sent.front, signature, RequestTrace("fuzz"))


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


def outcome(sent: Sent, signature: ModelSignature) -> InferRequest | None:
    """Return the decoded request, or None if it is rejected with a status of 4xx; other errors are raised."""
    try:
        request = read(sent, signature)
    except NormfoldError as error:
        if not 400 <= STATUS[type(error)] < 500:
            raise
        SEEN["rejected"] += 1
        return None
    SEEN["decoded"] += 1
    return request


@contextmanager
def large_from(size_bytes: int) -> Iterator[None]:
    """Let JSON over a size go through `service.codec.simdjson_decoder`."""
    module: Any = request_module  # a name that it imports
    before, module.MIN_SIMDJSON_BYTES = module.MIN_SIMDJSON_BYTES, size_bytes
    try:
        yield
    finally:
        module.MIN_SIMDJSON_BYTES = before


def assert_holds(request: InferRequest, signature: ModelSignature, body_bytes: int) -> None:
    """Check a decoded request against the model's signature."""
    assert request.tensors.keys() == signature.inputs.keys()
    for name, array in request.tensors.items():
        spec = signature.inputs[name]
        assert array.dtype == DTYPES[spec.datatype]
        assert array.dtype.isnative
        assert array.flags.aligned
        assert shape_matches(array.shape, spec.shape)
        assert array.nbytes <= 8 * (body_bytes + 1)
        if array.dtype.kind == "O":
            assert {type(element) for element in array.ravel()} <= {str}
    assert request.output_names == tuple(output.name for output in request.outputs)
    assert set(request.output_names) <= signature.outputs.keys()
    assert request.timeout_s is None or 0 < request.timeout_s < math.inf


def assert_alike(one: InferRequest | None, other: InferRequest | None) -> None:
    """Check that two decoders return the same request."""
    assert (one is None) == (other is None)
    if one is None or other is None:
        return
    assert one.tensors.keys() == other.tensors.keys()
    for name, array in one.tensors.items():
        assert_same(other.tensors[name], array)
    for field in ("outputs", "output_names", "timeout_s", "urgent"):
        assert getattr(one, field) == getattr(other, field)


def assert_same(got: Array, expected: Array) -> None:
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    if expected.dtype.kind == "O":
        assert got.tolist() == expected.tolist()
    else:
        assert got.tobytes() == expected.tobytes()


@LOOK
@given(st.data(), st.lists(tensors(), min_size=1, max_size=2), ENCODINGS)
def test_decoder_returns_the_arrays_of_a_valid_request(
    data: st.DataObject, values: list[Array], encoding: bytes
) -> None:
    specs = [data.draw(declared(array, name)) for array, name in zip(values, "ab", strict=False)]
    signature = ModelSignature(specs, GIVEN)
    for way in WAYS:
        sent = compressed(written(values, specs, way), encoding)
        for size in (0, LIMIT):
            with large_from(size):
                request = outcome(sent, signature)
            assert request is not None, way
            assert_holds(request, signature, len(sent.body) + LIMIT * bool(sent.encoding))
            for array, spec in zip(values, specs, strict=True):
                assert_same(request.tensors[spec.name], array)


@LOOK
@given(st.data(), tensors())
def test_raw_tensor_is_decoded_without_a_second_free_size(data: st.DataObject, array: Array) -> None:
    spec = data.draw(declared(array, "a"))
    free = [axis for axis, size in enumerate(spec.shape) if size == -1]
    signature, text = ModelSignature([spec], GIVEN), array.dtype.kind == "O"
    body: bytes = array.ravel()[0].encode() if text and array.size else bytes(array_to_bytes(array))

    request = outcome(Sent(body, 0), signature)

    if text:
        settled = array.size == 1
    else:  # the free size of a tensor without elements does not follow
        settled = not free or (len(free) == 1 and prod(size for size in spec.shape if size != -1) > 0)
    if settled:
        assert request is not None
        assert_same(request.tensors["a"], array)
    elif request is not None:
        assert_holds(request, signature, len(body))


@LOOK
@given(st.data(), st.lists(tensors(), min_size=1, max_size=2), st.sampled_from(WAYS), ENCODINGS)
def test_broken_body_is_rejected_or_valid(data: st.DataObject, values: list[Array], way: str, encoding: bytes) -> None:
    specs = [data.draw(declared(array, name)) for array, name in zip(values, "ab", strict=False)]
    signature, right = ModelSignature(specs, GIVEN), written(values, specs, way)
    before = Sent(data.draw(broken(right.body)), right.front)
    sent = compressed(before, encoding)
    if data.draw(st.booleans(), "broken again once compressed"):
        sent = Sent(data.draw(broken(sent.body)), sent.front, sent.encoding)
    assert_rejected_or_valid(data.draw(lies(sent)), signature)


def assert_rejected_or_valid(sent: Sent, signature: ModelSignature) -> None:
    """Decode a request with both JSON parsers: both reject it, or both return the same valid request."""
    found = []
    for size in (0, LIMIT):
        with large_from(size):
            found.append(outcome(sent, signature))
    assert_alike(*found)
    if found[0] is not None:
        assert_holds(found[0], signature, len(plain(sent)))


@LOOK
@given(
    REQUEST | ANY | GARBAGE,
    st.sampled_from(list(DTYPES)),
    st.sampled_from(SHAPED),
    st.none() | st.integers(0, 80),
)
def test_any_json_structure_is_rejected_or_valid(
    text: str, datatype: str, shape: tuple[int, ...], front: int | None
) -> None:
    signature = ModelSignature([TensorSpec(name="a", datatype=datatype, shape=shape)], GIVEN)
    assert_rejected_or_valid(Sent(text.encode(), front), signature)


@LOOK
@given(st.lists(NUMBERS, min_size=1, max_size=6), st.sampled_from(["FP32", "FP64", "INT8", "INT64", "UINT64"]))
def test_both_json_parsers_decode_the_same_numbers(numbers: list[str], datatype: str) -> None:
    entry = f'{{"name":"a","datatype":"{datatype}","shape":[{len(numbers)}],"data":[{",".join(numbers)}]}}'
    signature = ModelSignature([TensorSpec(name="a", datatype=datatype, shape=(-1,))], GIVEN)
    assert_rejected_or_valid(Sent(f'{{"inputs":[{entry}]}}'.encode()), signature)


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
def test_body_takes_memory_in_proportion_to_its_size(
    piece: str, size: int, datatype: str, encoding: bytes, large: bool
) -> None:
    inside = (piece * (size // len(piece))).rstrip(",")
    head = f'{{"inputs":[{{"name":"a","datatype":"{datatype}","shape":[0,1000000],"data":['.encode()
    sent = compressed(Sent(head + inside.encode() + b"]}]}"), encoding)
    signature = ModelSignature([TensorSpec(name="a", datatype=datatype, shape=(-1, -1))], GIVEN)
    tracemalloc.start()
    try:
        with large_from(0 if large else LIMIT):
            outcome(sent, signature)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * (len(head) + len(inside)) + 2**20


@pytest.mark.slow
@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_decompression_bomb_makes_no_more_than_the_limit(encoding: bytes) -> None:
    sent = compressed(Sent(bytes(50_000_000)), encoding)
    tracemalloc.start()
    try:
        assert outcome(sent, ModelSignature([], GIVEN)) is None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(sent.body) < 100_000
    assert peak < 4 * LIMIT


def test_fuzzer_finds_a_planted_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    signature = ModelSignature([TensorSpec(name="a", datatype="FP32", shape=(-1,))], GIVEN)
    sent = Sent(b'{"inputs":[{"name":"a","datatype":"FP32","shape":[1],"data":[1]}]}')
    assert_rejected_or_valid(sent, signature)

    monkeypatch.setattr(request_module, "parse_large", lambda _: {"inputs": []})  # another result for the same body
    with pytest.raises(AssertionError):
        assert_rejected_or_valid(sent, signature)

    monkeypatch.setattr(
        request_module, "parse_object", lambda _: dict[str, Any]()["inputs"]
    )  # not an error of the client's
    with pytest.raises(KeyError):
        assert_rejected_or_valid(sent, signature)


PROPERTIES = (
    test_decoder_returns_the_arrays_of_a_valid_request,
    test_raw_tensor_is_decoded_without_a_second_free_size,
    test_broken_body_is_rejected_or_valid,
    test_any_json_structure_is_rejected_or_valid,
    test_both_json_parsers_decode_the_same_numbers,
    test_body_takes_memory_in_proportion_to_its_size,
)
"""The tests that `make fuzz-wire` repeats."""

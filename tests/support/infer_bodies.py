"""Bodies of infer requests: fixed ones, and strategies of hypothesis for valid, broken and arbitrary ones."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from normfold.contract.manifest import TensorSpec
from normfold.service.codec.binary_tensors import array_to_bytes
from normfold.service.codec.json_tensors import DTYPES, Array

JSON_LENGTH = "Inference-Header-Content-Length"
"""Header with the length of the JSON in front of binary tensors."""

PICTURE: dict[str, Any] = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1, 4, 4], "data": [0.0] * 16}]}
"""Infer request of one picture to `BundleWriter.digits`."""


def binary_input(size: Any = 8, shape: Any = (1, 2), name: str = "input", **fields: Any) -> dict[str, Any]:
    """Return the JSON of an FP32 input whose data are `size` bytes behind the JSON; `fields` replace or add."""
    parameters = {"binary_data_size": size}
    return {"name": name, "datatype": "FP32", "shape": list(shape), "parameters": parameters} | fields


def png_of(pixels: np.ndarray, mode: str | None = None) -> bytes:
    """Encode pixels, (height, width) or (height, width, channels), rounded down to 8 bits, as PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8), mode).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class Sent:
    """A request on the wire."""

    body: bytes
    front: int | None = None
    encoding: bytes = b""


# Right requests.

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@st.composite
def tensors(draw: st.DrawFn, finite: bool = False) -> Array:
    """Return an array of any datatype and of up to three sizes."""
    datatype = draw(st.sampled_from(list(DTYPES)))
    dtype = DTYPES[datatype]
    shape = draw(st.lists(st.integers(0, 4), max_size=3).map(tuple))
    elements: Any = TEXTS if dtype.kind == "O" else arrays.from_dtype(dtype)
    if finite and dtype.kind == "f":
        elements = arrays.from_dtype(dtype, allow_nan=False, allow_infinity=False)
    return draw(arrays.arrays(dtype, shape, elements=elements))


@st.composite
def declared(draw: st.DrawFn, array: Array, name: str) -> TensorSpec:
    """Return what a model may declare that takes an array: some sizes free."""
    datatype = next(key for key, dtype in DTYPES.items() if dtype == array.dtype)
    shape = tuple(draw(st.sampled_from([size, -1])) for size in array.shape)
    return TensorSpec(name=name, datatype=datatype, shape=shape)


WAYS = ("nested", "flat", "bytes")


def written(values: Sequence[Array], specs: Sequence[TensorSpec], way: str) -> Sent:
    """Write a request: its data nested, flat, or as bytes behind the JSON."""
    entries, tail = [], b""
    for array, spec in zip(values, specs, strict=True):
        entry: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": list(array.shape)}
        if way == "bytes" or spec.datatype == "FP16" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
            raw = array_to_bytes(array)
            entry["parameters"], tail = {"binary_data_size": len(raw)}, tail + raw
        elif way == "nested" and array.ndim:
            entry["data"] = array.tolist()
        else:
            entry["data"] = array.ravel().tolist()
        entries.append(entry)
    head = json.dumps({"id": "1", "inputs": entries, "parameters": {"timeout": 5}}, ensure_ascii=False).encode()
    behind = any("parameters" in entry for entry in entries)
    return Sent(head + tail, len(head) if behind else None)


def compressed(sent: Sent, encoding: bytes) -> Sent:
    packs: dict[bytes, Callable[[bytes], bytes]] = {b"gzip": gzip.compress, b"deflate": zlib.compress}
    pack = packs.get(encoding, bytes)
    return Sent(pack(sent.body), sent.front, encoding)


ENCODINGS = st.sampled_from([b"", b"gzip", b"deflate", b"identity"])
GIVEN = [TensorSpec(name="y", datatype="FP32", shape=(-1,)), TensorSpec(name="z", datatype="BYTES", shape=(-1,))]


# Broken ones.

BORDERS = [str(number) for power in (7, 8, 15, 16, 31, 32, 53, 63, 64, 65) for number in (2**power - 1, -(2**power))]
"""Numbers about the ends of the integers' types, and of those that a float holds exactly."""

PIECES = st.sampled_from(
    [
        *(b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b" ", b"\n", b"/**/"),
        *(b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
        *(b"0", b"-", b"1e", b"1e999", b"-0.0", b"1.5", b"NaN", b"Infinity", b"null", b"true"),
        *map(str.encode, BORDERS),
        *(b"3.4028235e38", b"3.4028236e38", b"1.7976931348623157e308", b"5e-324", b"2.2250738585072011e-308"),
        *(b'"shape":[0,281474976710656]', b'"data":[1],"data":[2]', b"[" * 1000 + b"]" * 1000, b'{"a":' * 2000),
        *(b'"binary_data_size":4294967296', b'"datatype":"FP64"', b'"id":"a","id":7', b'"outputs":[{"name":"y"}]'),
    ]
)


@st.composite
def broken(draw: st.DrawFn, body: bytes) -> bytes:
    """Return a body that was damaged in a few places."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        end = min(len(body), at + draw(st.integers(0, 8)))
        change = draw(st.sampled_from(["cut", "flip", "put", "swap", "leave out", "double", "number", "begin"]))
        if change == "cut":
            body = body[:at]
        elif change == "flip" and at < len(body):
            body = body[:at] + bytes([body[at] ^ 1 << draw(st.integers(0, 7))]) + body[at + 1 :]
        elif change == "put":
            body = body[:at] + draw(PIECES) + body[at:]
        elif change == "swap":
            body = body[:at] + draw(PIECES) + body[end:]
        elif change == "leave out":
            body = body[:at] + body[end:]
        elif change == "double":
            body = body[:end] + body[at:]
        elif change == "begin":
            body = draw(st.sampled_from([b"\xef\xbb\xbf", b" \n", b"\0"])) + body
        else:
            digits = [index for index, sign in enumerate(body) if sign in b"0123456789"]
            if digits:
                index = draw(st.sampled_from(digits))
                body = body[:index] + draw(PIECES) + body[index + 1 :]
    return body


@st.composite
def lies(draw: st.DrawFn, sent: Sent) -> Sent:
    """Return a request whose length or encoding may not be what they say."""
    size = len(sent.body)
    fronts = st.sampled_from([sent.front, sent.front, sent.front, None, 0, 1, size - 1, size, size + 1, 10**17])
    front = draw(fronts | st.integers(0, size))
    encodings = st.sampled_from([sent.encoding] * 5 + [b"", b"gzip", b"deflate", b"br", b"\xff", b" GZIP "])
    return Sent(sent.body, None if front is None else max(0, front), draw(encodings))


# Requests of any structure, as text: so a key may stand twice, and a number is written in ways that no writer has.

KEYS = st.sampled_from(
    [
        *("id", "inputs", "outputs", "parameters", "name", "datatype", "shape", "data", "binary_data_size", "timeout"),
        *("priority", "binary_data", "binary_data_output", "classification", "model_name"),
        *("a", "", "[", "\\u0061", "é"),
    ]
)
LEAVES = st.sampled_from(
    [
        *('"a"', '"b"', '"y"', '"z"', '"FP32"', '"INT8"', '"UINT64"', '"BYTES"'),
        *('"["', '"é"', '"\\u00e9"', '"\\ud800"', "\t", ""),
        *("0", "1", "2", "-1", "-0", "-0.0", "1.0", "1e2", "1E400", "127", "128", "-128", "-129", "255", "256"),
        *("9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616", "3.5e38"),
        *("01", "+1", ".5", "true", "false", "null", "NaN", "nul"),
        *("[]", "{}", "[[]]", "[0,0]", "[1,1]", "[-1]"),
    ]
)
DEEP = st.integers(900, 1030).map(lambda depth: "[" * depth + "]" * depth)
"""About as deep as what orjson and simdjson read, and as Python recurses."""


def _listed(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(inner, max_size=4).map(lambda parts: f"[{','.join(parts)}]")


def _fields(keys: st.SearchStrategy[str], inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(keys, inner).map(lambda pair: f'"{pair[0]}":{pair[1]}')
    return st.lists(pairs, max_size=5).map(lambda parts: f"{{{','.join(parts)}}}")


ANY = DEEP | st.recursive(LEAVES, lambda inner: _listed(inner) | _fields(KEYS, inner), max_leaves=12)
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(json.dumps) | ANY
MORE = st.just("") | st.builds(lambda key, value: f',"{key}":{value}', KEYS, ANY)


def _entry(name: str, datatype: str, shape: str, data: str, more: str) -> str:
    return f'{{"name":{name},"datatype":{datatype},"shape":{shape},"data":{data}{more}}}'


ENTRY = st.builds(
    _entry,
    st.sampled_from(['"a"', '"a"', '"b"']) | ANY,
    st.sampled_from([f'"{name}"' for name in DTYPES if name != "FP16"]) | ANY,
    SHAPES,
    _listed(LEAVES) | _listed(_listed(LEAVES)) | ANY,
    MORE,
)
REQUEST = st.builds(lambda inputs, more: f'{{"inputs":{inputs}{more}}}', _listed(ENTRY) | ANY, MORE)
GARBAGE = st.binary(max_size=60).map(lambda some: some.decode("latin-1"))
SHAPED = [(-1,), (-1, -1), (2, -1), (), (1, 1)]
"""What a model may declare that gets them."""

# Numbers alone, many and at the borders: where the two parsers might differ.

DIGITS = st.text("0123456789", min_size=1, max_size=22)
NUMBERS = (
    st.sampled_from(["0", "-0", "-0.0", "9223372036854775807", "-9223372036854775808", "18446744073709551615", "1e23"])
    | st.integers(-(2**65), 2**65).map(str)
    | st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr)
    | st.builds(lambda whole, part, power: f"{int(whole)}.{part}e{power}", DIGITS, DIGITS, st.integers(-340, 310))
)

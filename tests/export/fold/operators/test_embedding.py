"""Gather of a constant table (Embedding): the table takes the affine of its features."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics

WORDS, FEATURES = 11, 6


def embedding(
    nodes: list[NodeProto], last: str, ids: list[Any], axis: int = 0, channels: int = FEATURES, dtype: Any = np.float32
) -> onnx.ModelProto:
    """Make ids -> Gather -> e -> nodes -> `last` -> BatchNormalization -> Relu -> y."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gather", ["t", "ids"], ["e"], name="embedding", axis=axis),
        *nodes,
        batchnorm(last, "n"),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    table = rng.normal(size=(WORDS, FEATURES) if axis == 0 else (FEATURES, WORDS)).astype(dtype)
    constants = {"t": table, "ax": np.array([2])} | statistics(rng, channels, dtype=dtype)
    return model(nodes, {"ids": ids}, ["y"], constants, dtype=np.int64)


def words(*shape: int) -> dict[str, np.ndarray]:
    return {"ids": np.random.default_rng(1).integers(-WORDS, WORDS, shape)}


CASES: dict[str, tuple[list[NodeProto], str, list[Any], int, tuple[int, ...]]] = {
    "rows": ([], "e", ["n"], 0, (5,)),
    "columns": ([helper.make_node("Transpose", ["e"], ["m"])], "m", ["n"], 1, (5,)),
    "sentences": ([helper.make_node("Transpose", ["e"], ["m"], perm=[0, 2, 1])], "m", ["n", "words"], 0, (3, 4)),
    "Unsqueeze": ([helper.make_node("Unsqueeze", ["e", "ax"], ["m"])], "m", ["n"], 0, (5,)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_embedding_absorbs_into_its_table(name: str, dtype: Any) -> None:
    nodes, last, ids, axis, shape = CASES[name]
    source = embedding(nodes, last, ids, axis, dtype=dtype)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert report.entries[0].into == ("embedding",)
    assert len(result.graph.node) == len(source.graph.node) - 1
    if dtype == np.float32:
        assert_same(source, result, words(*shape))


def test_embedding_behind_a_rectifier_keeps() -> None:
    source = embedding([helper.make_node("Relu", ["e"], ["r"])], "r", ["n"])

    result, report = folded(source)

    assert report.entries[0].reason_codes[0] in ("gain-sign", "non-linear")
    assert_same(source, result, words(5))


def test_embedding_whose_table_is_shared_keeps() -> None:
    """A tied output layer multiplies by the same table."""
    source = embedding([], "e", ["n"])
    source.graph.node.append(helper.make_node("MatMul", ["t", "y.turned"], ["z"], name="tied"))
    source.graph.node.insert(3, helper.make_node("Transpose", ["y"], ["y.turned"]))
    source.graph.output.append(onnx.ValueInfoProto(name="z"))
    source = onnx.shape_inference.infer_shapes(source)

    result, report = folded(source)

    (entry,) = report.entries
    assert entry.reason_codes[0] == "other-readers"
    assert entry.reason is not None
    assert "its table 't' is also read by MatMul 'tied'" in entry.reason
    assert_same(source, result, words(5))


def test_embedding_whose_ids_lie_on_the_channel_axis_keeps() -> None:
    source = embedding([], "e", ["n", 4], channels=4)

    result, report = folded(source)

    assert report.entries[0].reason_codes[0] == "not-per-channel"
    assert_same(source, result, words(3, 4))


def test_embedding_whose_table_a_caller_may_override_keeps() -> None:
    source = embedding([], "e", ["n"])
    source.graph.input.append(helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, (WORDS, FEATURES)))

    _, report = folded(source)

    assert report.batchnorm_after == 1


def test_two_embeddings_added_up_absorb_together() -> None:
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("Gather", ["t", "ids"], ["e"], name="words"),
        helper.make_node("Gather", ["p", "ids"], ["f"], name="places"),
        helper.make_node("Add", ["e", "f"], ["s"]),
        batchnorm("s", "n"),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    tables = {name: rng.normal(size=(WORDS, FEATURES)).astype(np.float32) for name in ("t", "p")}
    constants = tables | statistics(rng, FEATURES, dtype=np.float32)
    source = model(nodes, {"ids": ["n"]}, ["y"], constants, dtype=np.int64)

    result, _ = folded(source)

    assert operators(result) == ["Gather", "Gather", "Add", "Relu"]
    assert_same(source, result, words(5))

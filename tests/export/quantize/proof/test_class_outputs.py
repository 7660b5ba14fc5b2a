"""Outputs that hold classes: those that a card names, and those of a network without a card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from normfold.contract.source_card import IGNORED, SourceCard
from normfold.export.errors import SampleError
from normfold.export.quantize.proof.agreement import ClassCounts
from normfold.export.quantize.proof.class_outputs import ClassOutputs, class_outputs, labelled_output
from normfold.export.quantize.proof.outputs import OutputComparison, clipped_probabilities
from normfold.export.verify.runner import ValueInfo
from tests.support.onnx_models import model

LOGITS = helper.make_node("MatMul", ["x", "w"], ["logits"])
SOFTMAX = helper.make_node("Softmax", ["logits"], ["p"], axis=1)
ARGMAX = helper.make_node("ArgMax", ["logits"], ["class"], axis=1, keepdims=0)
BOX = helper.make_node("MatMul", ["x", "v"], ["box"])
WEIGHTS = {"w": np.ones((4, 3), np.float32), "v": np.ones((4, 1), np.float32)}


def outputs_of(card: SourceCard, nodes: list[object], names: list[str]) -> ClassOutputs:
    weights = {name: array for name, array in WEIGHTS.items() if any(name in node.input for node in nodes)}  # type: ignore[attr-defined]
    proto = model(nodes, {"x": ["n", 4]}, names, weights, dtype=np.float32)  # type: ignore[arg-type]
    return class_outputs(Path("net.onnx"), ir.from_proto(proto), card)


@pytest.mark.parametrize(
    ("card", "names", "found", "are_known"),
    [
        (SourceCard(logits=("logits",)), ["p", "logits"], ("logits",), True),
        (SourceCard(labels=("a", "b", "c")), ["p", "box"], ("p",), True),
        (SourceCard(labels=("a", "b")), ["p", "box"], (), True),
        (SourceCard(), ["logits", "box"], ("logits",), False),
        (SourceCard(), ["p", "box"], ("p",), True),
        (SourceCard(), ["logits", "p"], ("logits", "p"), False),
        (SourceCard(), ["class"], ("class",), True),
        (SourceCard(), ["box"], (), True),
    ],
)
def test_class_outputs_come_from_the_card_the_operators_or_the_shape(
    card: SourceCard, names: list[str], found: tuple[str, ...], are_known: bool
) -> None:
    nodes = {"p": [LOGITS, SOFTMAX], "class": [LOGITS, ARGMAX], "logits": [LOGITS], "box": [BOX]}
    needed = [node for node in (LOGITS, SOFTMAX, ARGMAX, BOX) if any(node in nodes[name] for name in names)]

    outputs = outputs_of(card, needed, names)

    assert (outputs.names, outputs.are_known) == (found, are_known)


@pytest.mark.parametrize(
    ("axis", "shape", "found"),
    [(1, ["n", 3, 5, 5], ("y",)), (-1, ["n", 3, 5, 5], ()), (None, ["n", 3, 5, 5], ()), (None, ["n", 3, 1, 1], ("y",))],
)
def test_class_outputs_of_pictures_are_those_of_a_softmax_over_channels(
    axis: int | None, shape: list[str | int], found: tuple[str, ...]
) -> None:
    node = (
        helper.make_node("Relu", ["x"], ["y"]) if axis is None else helper.make_node("Softmax", ["x"], ["y"], axis=axis)
    )
    proto = model([node], {"x": shape}, ["y"], {}, dtype=np.float32)

    assert class_outputs(Path("net.onnx"), ir.from_proto(proto), SourceCard()).names == found


def of_one(shape: tuple[int | str | None, ...], dtype: ir.DataType = ir.DataType.FLOAT) -> ClassOutputs:
    return ClassOutputs(("y",), {"y": ValueInfo("y", dtype, shape)})


@pytest.mark.parametrize(
    ("labels", "shape", "fits"),
    [
        (np.array([0, 2]), ("n", 3), True),
        (np.array([0, 3]), ("n", 3), False),
        (np.array([0, -1]), ("n", 3), False),
        (np.array([[0], [1]]), ("n", 3), False),
        (np.array([0, 9]), ("n", None), True),
        (np.array([0, 2]), ("n", 3, 1, 1), True),
        (np.zeros((2, 4, 4), np.int64), ("n", 3, "h", "w"), True),
        (np.zeros((2, 4, 4), np.int64), ("n", 3, 5, 4), False),
        (np.zeros(2, np.int64), ("n", 3, 4, 4), False),
        (np.resize(np.array([IGNORED, 0, 2]), (2, 4, 4)), ("n", 3, 4, 4), True),
        (np.resize(np.array([IGNORED, 0, 3]), (2, 4, 4)), ("n", 3, 4, 4), False),
        (np.resize(np.array([IGNORED, 0, -1]), (2, 4, 4)), ("n", 3, 4, 4), False),
        (np.full((2, 4, 4), IGNORED), ("n", 3, 4, 4), False),
        (np.array([0, IGNORED]), ("n", 3), False),
        (np.zeros((0,), np.int64), ("n", 3), False),
        (np.array([0, 2]), (), False),
    ],
)
def test_labels_fit_an_output_by_rank_and_classes(
    labels: np.ndarray, shape: tuple[int | str | None, ...], fits: bool
) -> None:
    if fits:
        assert labelled_output(labels, of_one(shape)) == "y"
        return
    with pytest.raises(SampleError, match="are not the classes of an output of the network: 'y' "):
        labelled_output(labels, of_one(shape))


def test_labels_fit_classes_that_argmax_gives() -> None:
    assert labelled_output(np.array([0, 7]), of_one(("n",), ir.DataType.INT64)) == "y"


def test_labels_of_two_outputs_go_to_the_softmax_or_are_refused() -> None:
    infos = {name: ValueInfo(name, ir.DataType.FLOAT, ("n", 3)) for name in ("logits", "p")}
    labels = np.array([0, 2])

    assert labelled_output(labels, ClassOutputs(("logits", "p"), infos, frozenset({"p"}), are_known=False)) == "p"
    with pytest.raises(SampleError, match="classes of the outputs 'logits', 'p'; a card that names one"):
        labelled_output(labels, ClassOutputs(("logits", "p"), infos))


def test_class_counts_compare_integers_as_they_are() -> None:
    counts = ClassCounts()
    counts.add(np.array([[0], [1], [2], [2]]), np.array([[0], [1], [2], [1]]), np.array([0, 1, 1, 2]))

    assert counts.agreement is not None
    assert counts.agreement.share == 0.75
    assert counts.accuracy is not None
    assert (counts.accuracy.before, counts.accuracy.after) == (0.75, 0.5)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [(1.0, 0.99, ["clip: the highest is 0.990, in float32 1.000"]), (0.9, 0.9, ["may clip"]), (1.0, 1.0, [])],
)
def test_clipped_probabilities_are_named_only_where_the_highest_is_lower(
    before: float, after: float, words: list[str]
) -> None:
    comparison = OutputComparison()
    wanted, got = (np.array([[highest, 1 - highest]], np.float32) for highest in (before, after))
    comparison.add(wanted, got, has_classes=False, labels=None)

    sentences = clipped_probabilities({"p": comparison})

    assert len(sentences) == len(words)
    assert all(word in sentence for word, sentence in zip(words, sentences, strict=True))

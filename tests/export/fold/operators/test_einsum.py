"""Einsum of an activation and a constant: the constant takes gains along its labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics

SIZES = {"n": 2, "c": 4, "h": 3, "d": 5, "k": 6, "s": 7}


def einsum(equation: str, back: bool, constant: int, offset: bool, channel: str, add: bool) -> onnx.ModelProto:
    """Make Einsum by a constant around a BatchNormalization whose channel axis, axis 1, is labelled `channel`."""
    rng = np.random.default_rng(0)
    terms, result = equation.split("->")
    operands = terms.split(",")
    shapes = [[SIZES[label] for label in operand] for operand in operands]
    names = ["e", "e"] if not back else ["x", "x"]
    names[constant] = "w"
    layer = helper.make_node("Einsum", names, ["p"], name="layer", equation=equation)
    added = [helper.make_node("Add", ["p", "b"], ["q"], name="bias")] if add else []
    last = "q" if add else "p"
    if back:
        nodes = [layer, *added, batchnorm(last, "y")]
    else:
        nodes = [
            helper.make_node("Tanh", ["x"], ["r"]),
            batchnorm("r", "e"),
            layer,
            *added,
            helper.make_node("Tanh", [last], ["y"]),
        ]
    constants: dict[str, Any] = {"w": rng.normal(size=shapes[constant])} | statistics(rng, SIZES[channel])
    constants |= {"b": rng.normal(size=[SIZES[result[1]], *[1] * (len(result) - 2)])} if add else {}
    if not offset:
        constants |= {f"bn.{name}": np.zeros(SIZES[channel]) for name in ("shift", "mean")}
    shape: list[Any] = ["n" if label == "n" else SIZES[label] for label in operands[1 - constant]]
    return model(nodes, {"x": shape}, ["y"], constants)


def rows(source: onnx.ModelProto) -> dict[str, np.ndarray]:
    shape = [one.dim_value or 2 for one in source.graph.input[0].type.tensor_type.shape.dim]
    return {"x": np.random.default_rng(1).normal(size=shape)}


@pytest.mark.parametrize(
    ("equation", "constant", "channel"),
    [
        ("nks,kc->ncs", 1, "c"),
        ("ck,nks->ncs", 0, "c"),
        ("nhd,hdc->nc", 1, "c"),
        ("ncs,cks->nck", 1, "c"),
    ],
)
def test_einsum_absorbs_a_gain_backwards(equation: str, constant: int, channel: str) -> None:
    source = einsum(equation, True, constant, offset=False, channel=channel, add=False)

    result, _ = folded(source)

    assert operators(result) == ["Einsum"]
    assert_same(source, result, rows(source))


def test_einsum_before_an_add_absorbs_the_gain_of_a_batchnorm() -> None:
    source = einsum("nks,kc->ncs", True, 1, offset=True, channel="c", add=True)

    result, _ = folded(source)

    assert operators(result) == ["Einsum", "Add"]
    assert_same(source, result, rows(source))


@pytest.mark.parametrize(
    ("equation", "constant", "channel"),
    [
        ("ncs,ck->nks", 1, "c"),
        ("kc,ncs->nks", 0, "c"),
        ("ncs,cks->nck", 1, "c"),
        ("ncd,cdk->nk", 1, "c"),
    ],
)
def test_einsum_absorbs_forwards_and_leaves_the_offset_to_the_add(equation: str, constant: int, channel: str) -> None:
    source = einsum(equation, False, constant, offset=True, channel=channel, add=True)

    result, _ = folded(source)

    assert operators(result) == ["Tanh", "Einsum", "Add", "Tanh"]
    assert_same(source, result, rows(source))


@pytest.mark.parametrize(
    ("equation", "back", "code"),
    [
        ("nks,kc->ncs", True, "no-bias/graph-output"),
        ("ncs,sk->nck", True, "not-per-channel/graph-output"),
        ("ncs,ck->nk", False, "non-linear/reduced-axis"),
        ("ncs,sk->nck", False, "non-linear/not-per-channel"),
        ("nck,kk->nck", True, "operator/graph-output"),
    ],
)
def test_einsum_that_cannot_take_the_affine_keeps(equation: str, back: bool, code: str) -> None:
    source = einsum(equation, back, 1, offset=True, channel="c", add=False)

    result, report = folded(source)

    forward = code.split("/")[1]
    found = report.entries[0].reason_codes
    assert found[0] == code.split("/")[0] if back else found[1] == forward
    assert_same(source, result, rows(source))


def test_einsum_of_two_values_keeps() -> None:
    rng = np.random.default_rng(2)
    nodes = [helper.make_node("Einsum", ["x", "z"], ["p"], equation="nks,kc->ncs"), batchnorm("p", "y")]
    source = model(nodes, {"x": ["n", 6, 7], "z": [6, 4]}, ["y"], statistics(rng, 4))

    _, report = folded(source)

    assert report.entries[0].reason_code == "operator/graph-output"


def test_einsum_without_an_arrow_sorts_its_labels() -> None:
    source = einsum("cks,nk->ncs", True, 0, offset=False, channel="c", add=False)
    source.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("equation", "bks, ak"))

    result, _ = folded(source)

    assert operators(result) == ["Einsum"]
    assert_same(source, result, rows(source))


@pytest.mark.parametrize(
    ("equation", "plain", "constant", "channel"),
    [
        ("...k,kc->...c", "nck,kd->ncd", 1, "c"),
        ("...k,kc", "nck,kd->ncd", 1, "c"),
        ("nc...,ck->nk...", "nchd,ck->nkhd", 1, "c"),
        ("ck, ...cs -> ...ks", "ck,ncs->nks", 0, "c"),
    ],
)
def test_einsum_with_an_ellipsis_absorbs_as_one_with_labels(
    equation: str, plain: str, constant: int, channel: str
) -> None:
    """Where the affine's axis is not summed, its gain cannot be absorbed, as in the first two."""
    source = einsum(plain, False, constant, offset=True, channel=channel, add=False)
    (layer,) = [node for node in source.graph.node if node.op_type == "Einsum"]
    written, _ = folded(source)
    layer.attribute[0].s = equation.encode()

    result, _ = folded(source)

    assert operators(result) == operators(written)
    assert_same(source, result, rows(source))


def test_einsum_with_an_ellipsis_absorbs_backwards() -> None:
    source = einsum("nks,kc->ncs", True, 1, offset=False, channel="c", add=False)
    source.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("equation", "...ks,kc->...cs"))

    result, _ = folded(source)

    assert operators(result) == ["Einsum"]
    assert_same(source, result, rows(source))


def test_einsum_with_an_ellipsis_in_its_constant_is_kept() -> None:
    """Its axes may be broadcast."""
    source = einsum("nck,nkd->ncd", True, 1, offset=False, channel="c", add=False)
    source.graph.node[0].attribute[0].s = b"...ck,...kd->...cd"

    result, report = folded(source)

    assert "BatchNormalization" in operators(result)
    assert "an ellipsis in its constant" in (report.entries[0].reason or "")

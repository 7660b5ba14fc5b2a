"""Inputs with a default: why nothing folds into them, and that all does once they are constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper

from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators

CHANNELS = 4
OVERRIDDEN = "may be overridden by the caller (`freeze_inputs` makes its default a constant)"
PARAMETERS = {
    "bn.scale": np.array([0.5, 1.5, 1.0, 2.0]),
    "bn.shift": np.array([0.5, -0.25, 1.0, 0.0]),
    "bn.mean": np.array([0.0, 1.0, -1.0, 0.5]),
    "bn.var": np.array([1.0, 0.5, 2.0, 1.5]),
}
UNIFORM = {name: np.full(CHANNELS, array[0]) for name, array in PARAMETERS.items()}

Case = tuple[Sequence[NodeProto], Mapping[str, np.ndarray], str]


def behind(nodes: Sequence[NodeProto], inner: Mapping[str, np.ndarray], uniform: bool = False) -> onnx.ModelProto:
    """Return a Conv, the given nodes from h to z, and a BatchNormalization."""
    rng = np.random.default_rng(0)
    conv = helper.make_node("Conv", ["x", "first"], ["h"], name="conv")
    constants = {"first": rng.normal(size=(CHANNELS, CHANNELS, 1, 1)), **inner, **(UNIFORM if uniform else PARAMETERS)}
    shape = ["n", CHANNELS, 6, 6]
    return model([conv, *nodes, batchnorm("z", "y")], {"x": shape}, ["y"], constants, opset=18)


def with_default(source: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return a model whose constant of a given name is an input too."""
    proto = onnx.ModelProto.FromString(source.SerializeToString())
    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == name]
    proto.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    return proto


def node(op_type: str, *inputs: str, **attributes: object) -> NodeProto:
    return helper.make_node(op_type, ["h", *inputs], ["z"], name="node", **attributes)


SQUARE = np.eye(CHANNELS) + 0.5
LAYERS: dict[str, Case] = {
    "conv weight": ([node("Conv", "w")], {"w": SQUARE.reshape(CHANNELS, CHANNELS, 1, 1)}, "its weight"),
    "conv bias": (
        [node("Conv", "k", "w")],
        {"k": SQUARE.reshape(CHANNELS, CHANNELS, 1, 1), "w": np.ones(CHANNELS)},
        "its bias",
    ),
    "einsum": ([node("Einsum", "w", equation="nchw,ck->nkhw")], {"w": SQUARE}, "its operand 'w'"),
    "mul": ([node("Mul", "w")], {"w": np.arange(1.0, 5).reshape(CHANNELS, 1, 1)}, "its operand 'w'"),
    "add": ([node("Add", "w")], {"w": np.arange(1.0, 5).reshape(CHANNELS, 1, 1)}, "its operand 'w'"),
    "where": (
        [node("Max", "w")],
        {"w": np.arange(1.0, 5).reshape(CHANNELS, 1, 1)},
        "its operand 'w'",
    ),
}
SETTINGS: dict[str, Case] = {
    "clip": ([node("Clip", "w")], {"w": np.array(0.25)}, "its min"),
    "pad": ([node("Pad", "p", "w")], {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": np.array(0.25)}, "pads with"),
}
AXES: dict[str, Case] = {
    "slice": (
        [node("Slice", "w", "e", "a")],
        {"w": np.array([0]), "e": np.array([CHANNELS]), "a": np.array([1])},
        "what it takes along an axis on which the affine varies",
    ),
    "reduce": ([node("ReduceMean", "w")], {"w": np.array([2, 3])}, "which axes it reduces"),
    "pads": ([node("Pad", "w")], {"w": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, "how much it pads"),
}


@pytest.mark.parametrize("name", [*LAYERS, *SETTINGS, *AXES])
def test_input_with_a_default_is_named_with_what_makes_it_a_constant(name: str) -> None:
    nodes, constants, subject = {**LAYERS, **SETTINGS, **AXES}[name]
    source = behind(nodes, constants, uniform=name in SETTINGS)

    _, report = folded(with_default(source, "w"))

    assert report.batchnorm_after == 1
    assert f"{subject} {OVERRIDDEN}" in (report.entries[0].reason or "")


@pytest.mark.parametrize("name", [*LAYERS, "clip"])
def test_input_with_a_default_takes_the_affine_once_it_is_a_constant(name: str) -> None:
    nodes, constants, _ = {**LAYERS, **SETTINGS}[name]
    source = behind(nodes, constants, uniform=name in SETTINGS)
    if name == "where":  # the affine passes it with one positive gain
        source = behind(nodes, constants, uniform=True)

    result, report = folded(source)

    assert report.batchnorm_after == 0 or name == "einsum"  # it has no bias
    assert_same(source, result, {"x": np.random.default_rng(1).normal(size=(2, CHANNELS, 6, 6))})


def test_weight_computed_from_an_input_with_a_default_names_that_input() -> None:
    transpose = helper.make_node("Transpose", ["w"], ["turned"], perm=[1, 0, 2, 3])
    source = behind([transpose, node("Conv", "turned")], {"w": SQUARE.reshape(CHANNELS, CHANNELS, 1, 1)})

    _, report = folded(with_default(source, "w"))

    assert f"its weight is computed from 'w', which {OVERRIDDEN}" in (report.entries[0].reason or "")


def test_weight_computed_from_an_input_without_a_default_is_computed() -> None:
    pool = helper.make_node("ReduceMean", ["x", "axes"], ["mean"])
    scaled = helper.make_node("Mul", ["w", "mean"], ["weight"])
    constants = {"w": SQUARE.reshape(CHANNELS, CHANNELS, 1, 1), "axes": np.array([0, 1, 2, 3])}
    source = behind([pool, scaled, node("Conv", "weight")], constants)

    _, report = folded(with_default(source, "w"))

    reason = report.entries[0].reason or ""
    assert "its weight is computed" in reason
    assert "freeze_inputs" not in reason
    assert operators(source).count("Conv") == 2

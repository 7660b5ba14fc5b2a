"""Parallel branches that are linear in one value become one layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto, helper, numpy_helper

from normfold.export.fold.report import Outcome
from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics

CHANNELS = 4
IMAGE = ["n", CHANNELS, 6, 6]


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


def conv(weight: str, output: str, kernel: int = 1, source: str = "x", **attributes: Any) -> NodeProto:
    return node("Conv", f"{source} {weight}", output, name=weight, pads=[kernel // 2] * 4, **attributes)


def check(nodes: list[NodeProto], constants: dict[str, Any], wanted: list[str], seed: int = 0, **options: Any) -> Any:
    """Merge, compare, and check which operators are left; `t` is a Tanh of the input, which nothing passes."""
    source = model([node("Tanh", "i", "x"), *nodes], {"i": options.pop("size", IMAGE)}, ["y"], constants, **options)
    result, report = folded(source)
    assert sorted(operators(result)) == sorted(["Tanh", *wanted])
    assert_same(source, result, {"i": np.random.default_rng(seed).normal(size=(2, *IMAGE[1:]))})
    return report


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_three_branches_of_a_repvgg_block_become_one_conv(rng: np.random.Generator) -> None:
    """Ding et al. 2021, arXiv:2101.03697: 3×3, 1×1 and identity, each with its BatchNormalization."""
    nodes = [
        conv("w3", "a", 3),
        batchnorm("a", "an", "bn3"),
        conv("w1", "b"),
        batchnorm("b", "bn", "bn1"),
        batchnorm("x", "c", "bn0"),
        node("Add", "an bn", "s"),
        node("Add", "s c", "y"),
    ]
    constants = {"w3": rng.normal(size=(4, 4, 3, 3)), "w1": rng.normal(size=(4, 4, 1, 1))}
    for name in ("bn3", "bn1", "bn0"):
        constants |= statistics(rng, CHANNELS, name)

    report = check(nodes, constants, ["Conv"])

    assert [entry.outcome for entry in report.entries] == [Outcome.FOLDED_BACK, Outcome.FOLDED_BACK, Outcome.MERGED]
    assert report.entries[2].into == ("w3",)


def test_a_repmixer_block_becomes_one_depthwise_conv(rng: np.random.Generator) -> None:
    """Vasu et al. 2023, arXiv:2303.14189: x + scale * (mixer(x) - norm(x))."""
    nodes = [
        conv("w", "m", 3, group=CHANNELS),
        batchnorm("m", "mn", "mixer"),
        batchnorm("x", "xn", "norm"),
        node("Sub", "mn xn", "d"),
        node("Mul", "d k", "dk"),
        node("Add", "x dk", "y"),
    ]
    constants = {"w": rng.normal(size=(4, 1, 3, 3)), "k": rng.normal(size=(4, 1, 1))}
    constants |= statistics(rng, CHANNELS, "mixer") | statistics(rng, CHANNELS, "norm")

    report = check(nodes, constants, ["Conv"])

    assert report.batchnorm_after == 0


def test_a_sum_with_something_else_keeps_one_add(rng: np.random.Generator) -> None:
    nodes = [
        conv("w3", "a", 3),
        node("Tanh", "x", "z"),
        node("Add", "a z", "s"),
        conv("w1", "b"),
        node("Sub", "s b", "y"),
    ]
    constants = {"w3": rng.normal(size=(4, 4, 3, 3)), "w1": rng.normal(size=(4, 4, 1, 1))}

    check(nodes, constants, ["Conv", "Tanh", "Add"])


def test_a_negative_summand_stays_negative(rng: np.random.Generator) -> None:
    nodes = [
        node("Tanh", "x", "z"),
        conv("w3", "a", 3),
        node("Sub", "a z", "s"),
        conv("w1", "b"),
        node("Add", "s b", "y"),
    ]
    constants = {"w3": rng.normal(size=(4, 4, 3, 3)), "w1": rng.normal(size=(4, 4, 1, 1))}

    check(nodes, constants, ["Conv", "Tanh", "Sub"])


def test_a_sum_of_many_stays_a_sum(rng: np.random.Generator) -> None:
    nodes = [
        node("Tanh", "x", "z"),
        node("Sigmoid", "x", "u"),
        conv("w3", "a", 3),
        conv("w1", "b"),
        node("Sum", "z a u b", "y"),
    ]
    constants = {"w3": rng.normal(size=(4, 4, 3, 3)), "w1": rng.normal(size=(4, 4, 1, 1))}

    check(nodes, constants, ["Conv", "Tanh", "Sigmoid", "Sum"])


def test_an_average_pool_is_a_uniform_kernel(rng: np.random.Generator) -> None:
    nodes = [
        conv("w", "a", 3, group=CHANNELS),
        node("AveragePool", "x", "p", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
        node("Add", "a p", "y"),
    ]

    check(nodes, {"w": rng.normal(size=(4, 1, 3, 3))}, ["Conv"])


def test_average_pool_that_leaves_padding_out_is_no_kernel(rng: np.random.Generator) -> None:
    nodes = [
        conv("w", "a", 3, group=CHANNELS),
        node("AveragePool", "x", "p", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Add", "a p", "y"),
    ]

    check(nodes, {"w": rng.normal(size=(4, 1, 3, 3))}, ["Conv", "AveragePool", "Add"])


def test_branches_that_would_cost_more_together_stay_apart(rng: np.random.Generator) -> None:
    """A dense 1×1 and a depthwise 3×3 kernel would make a dense 3×3 one."""
    nodes = [conv("dense", "a"), conv("deep", "b", 3, group=CHANNELS), node("Add", "a b", "y")]
    constants = {"dense": rng.normal(size=(4, 4, 1, 1)), "deep": rng.normal(size=(4, 1, 3, 3))}

    check(nodes, constants, ["Conv", "Conv", "Add"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"kernel": 3, "strides": [2, 2]}, {"kernel": 3}),
        ({"kernel": 3, "dilations": [2, 2]}, {"kernel": 3}),
        ({"kernel": 3, "auto_pad": "SAME_UPPER"}, {"kernel": 1}),
    ],
)
def test_kernels_that_do_not_lie_on_one_grid_stay_apart(
    rng: np.random.Generator, first: dict[str, Any], second: dict[str, Any]
) -> None:
    nodes, constants = [], {}
    for name, options in (("w", first), ("v", second)):
        attributes = dict(options)
        kernel = attributes.pop("kernel")
        constants[name] = rng.normal(size=(4, 4, kernel, kernel))
        made = conv(name, f"{name}o", kernel, **attributes)
        if "auto_pad" in attributes:
            made.attribute.remove(next(attribute for attribute in made.attribute if attribute.name == "pads"))
        nodes.append(made)
    if first.get("strides") or first.get("dilations"):  # make the shapes agree
        nodes = [*nodes, node("GlobalAveragePool", "wo", "wp"), node("GlobalAveragePool", "vo", "vp")]
        nodes.append(node("Add", "wp vp", "y"))
        check(nodes, constants, ["Conv", "Conv", "GlobalAveragePool", "GlobalAveragePool", "Add"])
    else:
        check([*nodes, node("Add", "wo vo", "y")], constants, ["Conv", "Conv", "Add"])


def test_branch_with_another_reader_stays(rng: np.random.Generator) -> None:
    nodes = [
        conv("w3", "a", 3),
        conv("w1", "b"),
        node("Tanh", "b", "t"),
        node("Add", "a b", "s"),
        node("Mul", "s t", "y"),
    ]
    constants = {"w3": rng.normal(size=(4, 4, 3, 3)), "w1": rng.normal(size=(4, 4, 1, 1))}

    check(nodes, constants, ["Conv", "Conv", "Tanh", "Add", "Mul"])


def test_fold_can_leave_merging_out(rng: np.random.Generator) -> None:
    import onnx_ir as ir

    from normfold.export.fold.fold import fold

    nodes = [conv("w3", "a", 3), conv("w1", "b"), node("Add", "a b", "y")]
    constants = {"w3": rng.normal(size=(4, 4, 3, 3)), "w1": rng.normal(size=(4, 4, 1, 1))}
    working = ir.from_proto(model([node("Tanh", "i", "x"), *nodes], {"i": IMAGE}, ["y"], constants))

    fold(working, merging=False)

    assert [each.op_type for each in working.graph] == ["Tanh", "Conv", "Conv", "Add"]


def test_affine_branches_without_a_layer_share_one_batchnorm(rng: np.random.Generator) -> None:
    nodes = [
        batchnorm("x", "a", "first"),
        batchnorm("x", "b", "second"),
        node("Sub", "a b", "s"),
        node("Tanh", "s", "y"),
    ]
    constants = statistics(rng, CHANNELS, "first") | statistics(rng, CHANNELS, "second")

    report = check(nodes, constants, ["BatchNormalization", "Tanh"])

    assert [entry.outcome for entry in report.entries] == [Outcome.KEPT, Outcome.MERGED]


BRANCHES = {
    "3x3": (lambda rng: {"w": rng.normal(size=(4, 4, 3, 3))}, {"pads": [1, 1, 1, 1]}),
    "1x1": (lambda rng: {"w": rng.normal(size=(4, 4, 1, 1))}, {}),
    "3x1": (lambda rng: {"w": rng.normal(size=(4, 4, 3, 1))}, {"pads": [1, 0, 1, 0]}),
    "groups": (lambda rng: {"w": rng.normal(size=(4, 2, 3, 3))}, {"pads": [1, 1, 1, 1], "group": 2}),
    "deep": (lambda rng: {"w": rng.normal(size=(4, 1, 3, 3))}, {"pads": [1, 1, 1, 1], "group": 4}),
    "wide": (lambda rng: {"w": rng.normal(size=(4, 1, 3, 3))}, {"pads": [2, 2, 2, 2], "dilations": [2, 2], "group": 4}),
    "off centre": (lambda rng: {"w": rng.normal(size=(4, 4, 2, 2))}, {"pads": [1, 0, 0, 1]}),
    "norm": (None, {}),
    "identity": (None, {}),
    "other": (None, {}),
}


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(BRANCHES)), min_size=2, max_size=6),
    signs=st.lists(st.booleans(), min_size=6, max_size=6),
    seed=st.integers(0, 1000),
)
def test_sum_of_random_branches_keeps_its_value(names: list[str], signs: list[bool], seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes, constants, total = [node("Tanh", "i", "x"), node("Sigmoid", "i", "z")], {}, "z"
    for index, name in enumerate(names):
        make, attributes = BRANCHES[name]
        value = f"v{index}"
        if make is not None:
            constants[f"w{index}"] = make(rng)["w"]
            nodes.append(node("Conv", f"x w{index}", value, **attributes))
        elif name == "norm":
            constants |= statistics(rng, CHANNELS, f"bn{index}")
            nodes.append(batchnorm("x", value, f"bn{index}"))
        elif name == "other":
            nodes.append(node("Sigmoid", "x", value))
        else:
            value = "x"
        nodes.append(node("Add" if signs[index] else "Sub", f"{total} {value}", f"s{index}"))
        total = f"s{index}"
    source = model([*nodes, node("Tanh", total, "y")], {"i": IMAGE}, ["y"], constants)

    result, _ = folded(source)

    counts = [len(each.graph.node) for each in (source, result)]
    assert counts[1] <= counts[0]
    assert_same(source, result, {"i": rng.normal(size=(2, *IMAGE[1:]))})
    onnx.checker.check_model(result, full_check=True)


@pytest.mark.parametrize("bias", [(True, True), (False, True), (True, False), (False, False)])
def test_a_narrow_conv_before_a_conv_goes_into_it(rng: np.random.Generator, bias: tuple[bool, bool]) -> None:
    constants = {"wide": rng.normal(size=(8, 4, 1, 1)), "narrow": rng.normal(size=(3, 8, 3, 3))}
    names = [["x", "wide"], ["h", "narrow"]]
    for given_names, given_bias, name, size in zip(names, bias, ("a", "b"), (8, 3), strict=True):
        if given_bias:
            constants[name] = rng.normal(size=size)
            given_names.append(name)
    nodes = [node("Conv", " ".join(names[0]), "h"), node("Conv", " ".join(names[1]), "y", strides=[2, 2])]

    check(nodes, constants, ["Conv"])


def test_a_bias_does_not_pass_zero_padding(rng: np.random.Generator) -> None:
    constants = {
        "wide": rng.normal(size=(8, 4, 1, 1)),
        "narrow": rng.normal(size=(3, 8, 3, 3)),
        "a": rng.normal(size=8),
    }
    nodes = [node("Conv", "x wide a", "h"), conv("narrow", "y", 3, source="h")]

    check(nodes, constants, ["Conv", "Conv"])
    check(nodes, constants | {"a": np.zeros(8)}, ["Conv"])


def test_a_bottleneck_stays_two_layers(rng: np.random.Generator) -> None:
    constants = {"down": rng.normal(size=(1, 4, 1, 1)), "up": rng.normal(size=(4, 1, 1, 1))}
    nodes = [node("Conv", "x down", "h"), node("Conv", "h up", "y")]

    check(nodes, constants, ["Conv", "Conv"])


@pytest.mark.parametrize("turned", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_two_gemms_become_one(rng: np.random.Generator, turned: tuple[int, int]) -> None:
    shapes = [(4, 8), (8, 3)]
    constants = {
        f"w{index}": rng.normal(size=shape[::-1] if transposed else shape)
        for index, (shape, transposed) in enumerate(zip(shapes, turned, strict=True))
    }
    constants |= {"b0": rng.normal(size=8), "b1": rng.normal(size=3)}
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["h"], transB=turned[0]),
        helper.make_node("Gemm", ["h", "w1", "b1"], ["y"], transB=turned[1]),
    ]
    source = model(nodes, {"x": ["n", 4]}, ["y"], constants)

    result, _ = folded(source)

    assert operators(result) == ["Gemm"]
    assert_same(source, result, {"x": rng.normal(size=(5, 4))})


@pytest.mark.parametrize("constant_first", [False, True])
def test_constant_node_of_full_size_is_a_summand(constant_first: bool, rng: np.random.Generator) -> None:
    value = numpy_helper.from_array(rng.normal(size=(2, *IMAGE[1:])))
    nodes = [node("Constant", "", "k", value=value), conv("w", "a"), conv("v", "b"), node("Add", "a b", "s"),
             node("Add", "k s" if constant_first else "s k", "y")]  # fmt: skip

    check(
        nodes,
        {"w": rng.normal(size=(4, 4, 1, 1)), "v": rng.normal(size=(4, 4, 1, 1))},
        ["Conv", "Add"],
        size=[2, *IMAGE[1:]],
    )

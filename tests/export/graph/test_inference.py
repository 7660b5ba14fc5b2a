"""Shapes that follow from what a node reads beside a value, where onnx's inference stops."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import NodeProto, TensorProto, helper

from normfold.export.graph.inference import infer_shapes
from normfold.export.graph.shapes import Sizes, sizes_of
from normfold.export.onnx_io.stated_outputs import drop_made_up_names, restore_stated_sizes
from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics

node = helper.make_node

LOST = [node("Own", ["x"], ["lost"], domain="own")]
"""An operator of another domain: nothing is known of what it gives."""


def inferred(nodes: list[NodeProto], outputs: list[str], **constants: np.ndarray) -> dict[str, Sizes | None]:
    """Return the sizes of each value of nodes that follow LOST."""
    plain = model([node("Identity", ["x"], ["y"])], {"x": ["n", 3, 8, 8]}, ["y"], constants)
    del plain.graph.node[:], plain.graph.output[:], plain.graph.value_info[:]
    plain.graph.node.extend([*LOST, *nodes])
    plain.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in outputs)
    plain.opset_import.append(helper.make_opsetid("own", 1))
    working = ir.from_proto(plain)
    infer_shapes(working, afresh=True)
    return {value.name or "": plain_sizes(value) for each in working.graph for value in each.outputs}


def plain_sizes(value: ir.Value) -> Sizes | None:
    """Return a value's sizes, without the names that onnx's inference makes up."""
    sizes = sizes_of(value)
    return None if sizes is None else tuple(None if str(size).startswith("unk__") else size for size in sizes)


def test_conv_gives_its_input_and_output_rank_and_channels() -> None:
    found = inferred([node("Conv", ["lost", "w"], ["h"], group=2)], ["h"], w=np.ones((6, 4, 3, 3)))

    assert found == {"lost": (None, 8, None, None), "h": (None, 6, None, None)}


def test_conv_transpose_gives_its_input_and_output_rank_and_channels() -> None:
    found = inferred([node("ConvTranspose", ["lost", "w"], ["h"], group=2)], ["h"], w=np.ones((6, 4, 3)))

    assert found == {"lost": (None, 6, None), "h": (None, 8, None)}


def test_shapes_go_back_through_activations_and_transposes() -> None:
    nodes = [
        node("Transpose", ["lost"], ["t"], perm=[0, 2, 1]),
        node("Relu", ["t"], ["r"]),
        node("Mul", ["r", "two"], ["m"]),
        node("Conv", ["m", "w"], ["h"]),
    ]

    found = inferred(nodes, ["h"], w=np.ones((5, 4, 1)), two=np.array(2.0))

    assert found["m"] == found["r"] == found["t"] == (None, 4, None)
    assert found["lost"] == (None, None, 4)


@pytest.mark.parametrize(
    ("nodes", "constants", "sizes"),
    [
        ([node("Flatten", ["lost"], ["h"])], {}, {"h": (None, None)}),
        ([node("Gemm", ["lost", "w"], ["h"])], {"w": np.ones((4, 5))}, {"lost": (None, 4), "h": (None, 5)}),
        (
            [node("Gemm", ["lost", "w"], ["h"], transA=1, transB=1)],
            {"w": np.ones((4, 5))},
            {"lost": (5, None), "h": (None, 4)},
        ),
        ([node("MaxPool", ["lost"], ["h"], kernel_shape=[2, 2])], {}, {"h": (None,) * 4, "lost": (None,) * 4}),
        ([node("Pad", ["lost", "pads"], ["h"])], {"pads": np.zeros(6, np.int64)}, {"h": (None,) * 3}),
        ([node("DepthToSpace", ["lost"], ["h"], blocksize=2)], {}, {"h": (None,) * 4}),
        ([node("Transpose", ["lost"], ["h"], perm=[0, 2, 1])], {}, {"h": (None,) * 3, "lost": (None,) * 3}),
        (
            [node("Resize", ["lost", "", "scales"], ["h"])],
            {"scales": np.ones(4, np.float32)},
            {"h": (None,) * 4, "lost": (None,) * 4},
        ),
        (
            [node("Concat", ["lost", "lost"], ["c"], axis=1), node("Conv", ["c", "w"], ["h"])],
            {"w": np.ones((2, 4, 1, 1))},
            {"c": (None, 4, None, None), "lost": (None,) * 4},
        ),
        (
            [node("ReduceMean", ["lost"], ["m"], axes=[2, 3]), node("Conv", ["m", "w"], ["h"])],
            {"w": np.ones((2, 4, 1, 1))},
            {"lost": (None,) * 4},
        ),
        (
            [node("MatMul", ["lost", "k"], ["m"]), node("Conv", ["m", "w"], ["h"])],
            {"k": np.ones((5, 6)), "w": np.ones((2, 4, 1))},
            {"m": (None, 4, 6), "lost": (None, 4, 5)},
        ),
        (
            [batchnorm("lost", "b"), node("Conv", ["b", "w"], ["h"])],
            {"w": np.ones((2, 3, 1, 1))} | statistics(np.random.default_rng(0), 3),
            {"b": (None, 3, None, None), "lost": (None, 3, None, None)},
        ),
    ],
    ids=lambda value: "-".join(each.op_type for each in value) if isinstance(value, list) else "",
)
def test_operands_give_shapes(nodes: list[NodeProto], constants: dict[str, Any], sizes: dict[str, Sizes]) -> None:
    found = inferred(nodes, ["h"], **constants)

    assert {name: found[name] for name in sizes} == sizes


def test_reductions_that_drop_axes_say_nothing_of_a_rank() -> None:
    nodes = [node("ReduceMean", ["lost"], ["m"], axes=[3], keepdims=0), node("Conv", ["m", "w"], ["h"])]

    found = inferred(nodes, ["h"], w=np.ones((2, 4, 1)))

    assert found["m"] == (None, 4, None)
    assert found["lost"] is None


def test_constant_of_rank_one_says_nothing_of_the_other_operand() -> None:
    nodes = [node("Mul", ["lost", "k"], ["m"]), node("Conv", ["m", "w"], ["h"])]

    assert inferred(nodes, ["h"], w=np.ones((2, 4, 1)), k=np.ones(1))["lost"] is None


def computed_target(rng: np.random.Generator) -> onnx.ModelProto:
    """Make a Reshape to the first sizes of its own input, which inference loses, then Conv and BatchNormalization."""
    integers = {"zero": [0], "one": [1], "rest": [3, -1, 4]}
    constants: dict[str, Any] = {name: np.array(value, np.int64) for name, value in integers.items()}
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Slice", ["shape", "zero", "one"], ["rows"]),
        node("Concat", ["rows", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["r"]),
        node("Conv", ["r", "w"], ["h"], name="conv"),
        batchnorm("h", "n"),
        node("Relu", ["n"], ["y"]),
    ]
    constants["w"] = rng.normal(size=(5, 3, 1, 1))
    source = model(nodes, {"x": ["n", 3, "height", "width"]}, ["y"], constants | statistics(rng, 5))
    for output in source.graph.output:
        output.type.tensor_type.ClearField("shape")
    return source


def test_batchnorm_behind_a_conv_of_lost_rank_is_folded() -> None:
    rng = np.random.default_rng(1)
    source = computed_target(rng)

    result, report = folded(source)

    assert report.batchnorm_after == 0
    assert "BatchNormalization" not in operators(result)
    assert_same(source, result, {"x": rng.normal(size=(2, 3, 4, 6))})


def test_inference_twice_finds_nothing_more() -> None:
    working = ir.from_proto(computed_target(np.random.default_rng(2)))

    assert infer_shapes(working, afresh=True) is True
    assert infer_shapes(working) is False


@pytest.mark.parametrize("sizes", [[2, 9, 9, 9], [2, 9]])
def test_shapes_that_a_file_states_wrongly_count_for_nothing(sizes: list[int]) -> None:
    rng = np.random.default_rng(3)
    nodes = [node("Conv", ["x", "w"], ["h"], name="conv"), batchnorm("h", "y")]
    source = model(nodes, {"x": [2, 2, 4, 4]}, ["y"], {"w": rng.normal(size=(3, 2, 1, 1))} | statistics(rng, 3))
    del source.graph.value_info[:]
    source.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.DOUBLE, sizes))

    result, _ = folded(source)

    assert operators(result) == ["Conv"]


def read_by_its_rows(stated: str) -> onnx.ModelProto:
    """Make Conv -> BatchNormalization -> Relu and a Gemm of its rows, made dynamic by a change of the input alone.

    The Relu is an output, or a value in between whose shape the file states; either as it was for one row.
    """
    rng = np.random.default_rng(3)
    nodes = [
        node("Conv", ["x", "w"], ["h"], name="conv"),
        batchnorm("h", "n"),
        node("Relu", ["n"], ["r"]),
        node("Shape", ["r"], ["sizes"]),
        node("Gather", ["sizes", "zero"], ["rows"]),
        node("Concat", ["rows", "rest"], ["target"], axis=0),
        node("Reshape", ["r", "target"], ["flat"]),
        node("Gemm", ["flat", "v"], ["y"], name="gemm"),
    ]
    constants = {"w": rng.normal(size=(3, 2, 1, 1)), "v": rng.normal(size=(48, 5)), **statistics(rng, 3)}
    constants |= {"zero": np.array([0]), "rest": np.array([-1])}
    source = model(nodes, {"x": [1, 2, 4, 4]}, ["y", "r"] if stated == "output" else ["y"], constants)
    source.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    return source


@pytest.mark.parametrize("stated", ["output", "value"])
def test_rows_of_one_export_are_not_taken_for_those_of_all(stated: str) -> None:
    source = read_by_its_rows(stated)

    result, _ = folded(source)

    assert "BatchNormalization" not in operators(result)
    assert_same(source, result, {"x": np.random.default_rng(0).normal(size=(3, 2, 4, 4))})


def test_sizes_of_an_output_that_are_not_found_stay_those_of_the_file() -> None:
    source = model([node("Relu", ["x"], ["y"])], {"x": ["n", 3]}, ["y"], {})
    source.graph.node[0].CopyFrom(node("Own", ["x"], ["y"], domain="own"))
    source.opset_import.append(helper.make_opsetid("own", 1))
    source.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    working = ir.from_proto(source)
    infer_shapes(working, afresh=True)
    assert sizes_of(working.graph.outputs[0]) == ("n", None)

    restore_stated_sizes(working)

    assert sizes_of(working.graph.outputs[0]) == ("n", 7)


def test_names_that_inference_makes_up_are_not_written() -> None:
    nodes = [node("Slice", ["x", "start", "end"], ["s"]), node("Relu", ["s"], ["r"]), node("Relu", ["r"], ["y"])]
    source = model(nodes, {"x": ["unk__7", 3], "start": [1], "end": [1]}, ["y"], {})
    for name in ("start", "end"):
        (value,) = [each for each in source.graph.input if each.name == name]
        value.type.tensor_type.elem_type = TensorProto.INT64
    source.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "unk__7"
    source.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "unk__9"
    working = ir.from_proto(source)

    drop_made_up_names(working)

    assert [sizes_of(value) for value in working.graph.outputs] == [("unk__7", None)]
    assert all("unk__" not in str(value.shape) for each in list(working.graph)[:2] for value in each.outputs)

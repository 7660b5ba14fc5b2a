"""Stages of the fold: each returns whether it changed the model, and says in its docstring what it ensures."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from normfold.export.fold.fold import STAGES
from normfold.export.fold.stages.finish import check, join_equal_nodes
from normfold.export.fold.stages.fold_and_join import fold_and_join
from normfold.export.fold.stages.fold_and_merge import fold_and_merge
from normfold.export.fold.stages.pixels import take_pixels
from normfold.export.fold.stages.prepare import (
    compute_constants,
    infer_shapes,
    inline_functions,
    record_batchnorm_parameters,
    remove_unused_nodes,
)
from normfold.export.fold.state import FoldOptions, FoldState, Stage
from normfold.export.graph.pixels import FromPixels
from tests.support.onnx_models import batchnorm, conv_batchnorm, model, statistics

IMAGE: Any = {"x": ["n", 2, 4, 4]}


def state_of(proto: onnx.ModelProto, *stages: Stage, **options: Any) -> FoldState:
    """Return the state of a model after some stages."""
    state = FoldState(ir.from_proto(proto), FoldOptions(**options))
    for stage in stages:
        stage(state)
    return state


def conv_then_batchnorm() -> onnx.ModelProto:
    nodes, constants = conv_batchnorm(np.random.default_rng(0))
    return model(nodes, IMAGE, ["y"], constants)


def batchnorm_alone() -> onnx.ModelProto:
    return model([batchnorm("x", "y")], IMAGE, ["y"], statistics(np.random.default_rng(1), 2))


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_stage_says_what_it_requires_and_ensures(stage: Stage) -> None:
    assert "Requires:" in (stage.__doc__ or "")
    assert "Ensures:" in (stage.__doc__ or "")


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_stage_returns_false_for_a_folded_model(stage: Stage) -> None:
    state = state_of(conv_then_batchnorm(), *STAGES)
    again = FoldState(state.model)
    for earlier in STAGES[: STAGES.index(stage)]:
        earlier(again)
    before = again.model.graph.num_nodes()

    assert stage(again) is False

    assert again.model.graph.num_nodes() == before


def test_inline_functions_returns_whether_there_were_calls() -> None:
    body = helper.make_function("own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
                                [helper.make_opsetid("", 17)])  # fmt: skip
    proto = conv_then_batchnorm()
    assert inline_functions(state_of(proto)) is False

    proto.graph.node[0].input[0] = "twice"
    proto.graph.node.insert(0, helper.make_node("Twice", ["x"], ["twice"], domain="own"))
    proto.functions.append(body)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    state = state_of(proto)

    assert inline_functions(state) is True
    assert [node.op_type for node in state.model.graph] == ["Add", "Conv", "BatchNormalization"]
    assert list(state.batchnorms) == ["bn"]


def test_infer_shapes_returns_whether_more_is_known() -> None:
    proto = conv_then_batchnorm()
    del proto.graph.value_info[:]
    state = state_of(proto, inline_functions)

    assert infer_shapes(state) is True
    assert infer_shapes(state) is False


def test_compute_constants_returns_whether_there_were_any() -> None:
    proto = conv_then_batchnorm()
    assert compute_constants(state_of(proto, inline_functions, infer_shapes)) is False

    proto.graph.node[0].input[1] = "weight"
    proto.graph.node.insert(0, helper.make_node("Neg", ["w"], ["weight"]))
    state = state_of(proto, inline_functions, infer_shapes)

    assert compute_constants(state) is True
    assert [node.op_type for node in state.model.graph] == ["Conv", "BatchNormalization"]


def test_record_batchnorm_parameters_changes_the_report_alone() -> None:
    state = state_of(conv_then_batchnorm(), inline_functions, infer_shapes)

    assert record_batchnorm_parameters(state) is False

    assert state.report.parameters["bn"].scale.shape == (3,)


def test_remove_unused_nodes_returns_whether_there_were_any() -> None:
    proto = conv_then_batchnorm()
    proto.graph.node.append(helper.make_node("Relu", ["h"], ["unread"]))
    state = state_of(proto, inline_functions, infer_shapes)

    assert remove_unused_nodes(state) is True
    assert remove_unused_nodes(state) is False


def test_take_pixels_changes_the_input_only_where_it_is_asked_for() -> None:
    scale = numpy_helper.from_array(np.full((1, 2, 1, 1), 1 / 255), "factor")
    proto = conv_then_batchnorm()
    proto.graph.initializer.append(scale)
    proto.graph.node[0].input[0] = "scaled"
    proto.graph.node.insert(0, helper.make_node("Mul", ["x", "factor"], ["scaled"]))
    assert take_pixels(state_of(proto, inline_functions, infer_shapes)) is False

    state = state_of(proto, inline_functions, infer_shapes, pixels=FromPixels())

    assert take_pixels(state) is True
    assert state.model.graph.inputs[0].dtype == ir.DataType.UINT8
    assert state.report.input is not None


def test_fold_and_merge_returns_whether_anything_folded() -> None:
    kept = state_of(batchnorm_alone(), inline_functions, infer_shapes)
    assert fold_and_merge(kept) is False
    assert [rejection.code for rejection in kept.rejections[kept.batchnorms["bn"]]] == ["graph-input", "graph-output"]

    folded = state_of(conv_then_batchnorm(), inline_functions, infer_shapes)
    assert fold_and_merge(folded) is True
    assert list(folded.folded) == [folded.batchnorms["bn"]]


def test_join_equal_nodes_returns_whether_there_were_any() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["x"], ["b"]),
        helper.make_node("Mul", ["a", "b"], ["y"]),
    ]
    state = state_of(model(nodes, IMAGE, ["y"], {}), inline_functions, infer_shapes)

    assert join_equal_nodes(state) is True
    assert join_equal_nodes(state) is False
    assert [node.op_type for node in state.model.graph] == ["Relu", "Mul"]


def test_check_leaves_the_model_as_it_is() -> None:
    state = state_of(conv_then_batchnorm(), inline_functions, infer_shapes)

    assert check(state) is False

    assert [node.op_type for node in state.model.graph] == ["Conv", "BatchNormalization"]


def test_fold_and_join_folds_what_has_one_reader_once_equal_nodes_are_joined() -> None:
    constants = {name: np.full(2, 0.5, np.float32) for name in ("scale", "shift", "mean", "var")}
    nodes = [
        helper.make_node("BatchNormalization", ["x", *constants], ["v"], name="bn"),
        helper.make_node("Add", ["v", "x"], ["first"]),
        helper.make_node("Add", ["v", "x"], ["second"]),
        helper.make_node("Relu", ["first"], ["y"]),
        helper.make_node("Neg", ["second"], ["z"]),
    ]
    state = state_of(model(nodes, IMAGE, ["y", "z"], constants), inline_functions, infer_shapes)

    assert fold_and_join(state) is True

    assert [node.op_type for node in state.model.graph] == ["BatchNormalization", "Relu", "Neg"]
    assert fold_and_join(state) is False

"""Sizes of free axes that a network runs with: the usual ones, else those that its constants suggest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import NodeProto, TensorProto, helper

from normfold.export.errors import ModelInputError
from normfold.export.graph.input_sizes import suggested_sizes
from normfold.export.verify.inputs import input_shapes, random_inputs
from normfold.export.verify.runner import Runner, ValueInfo
from normfold.export.verify.verify import Verification, verify
from tests.support.onnx_models import batchnorm, model, statistics

node = helper.make_node
RNG = np.random.default_rng(0)

CONV = [node("Conv", ["x", "w"], ["c"]), batchnorm("c", "b")]
CONV_WEIGHTS = {"w": RNG.normal(size=(4, 3, 1)), **statistics(RNG, 4)}

NETWORKS = {
    "channels of a Conv": (CONV, ["n", "channels", "length"], CONV_WEIGHTS),
    "inputs of a Gemm": ([node("Gemm", ["x", "w"], ["b"])], ["n", "inputs"], {"w": RNG.normal(size=(5, 4))}),
    "one row in a Reshape": (
        [*CONV, node("Reshape", ["b", "target"], ["r"])],
        ["n", 3, 8],
        {**CONV_WEIGHTS, "target": np.array([1, 32])},
    ),
    "rows of a constant": (
        [*CONV, node("Add", ["b", "table"], ["r"])],
        ["n", 3, 8],
        {**CONV_WEIGHTS, "table": RNG.normal(size=(5, 4, 8))},
    ),
    "a table of positions": (
        [*CONV, node("Add", ["b", "table"], ["r"])],
        ["n", 3, "length"],
        {**CONV_WEIGHTS, "table": RNG.normal(size=(1, 4, 50))},
    ),
    "a flattened map": (
        [
            node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
            node("Flatten", ["c"], ["f"]),
            node("Gemm", ["f", "v"], ["b"]),
        ],
        ["n", 3, "height", "width"],
        {"w": RNG.normal(size=(4, 3, 1, 1)), "v": RNG.normal(size=(4 * 5 * 5, 2))},
    ),
    "state of a recurrent layer": (
        [node("RNN", ["x", "w", "r", "", "", "h"], ["b"], hidden_size=2)],
        ["time", "n", 3],
        {"w": RNG.normal(size=(1, 2, 3)), "r": RNG.normal(size=(1, 2, 2)), "h": RNG.normal(size=(1, 7, 2))},
    ),
}


def saved(
    folder: Path,
    nodes: list[NodeProto],
    shape: list[int | str],
    constants: dict[str, np.ndarray],
    input_is_stated: bool = True,
) -> Path:
    """Save a network in float32 that does not state the shape of its output, nor that of its input if so wanted."""
    single = {name: array.astype("f" if array.dtype.kind == "f" else "l") for name, array in constants.items()}
    sigmoid = node("Sigmoid", [nodes[-1].output[-1]], ["y"])
    proto = model([*nodes, sigmoid], {"x": shape}, ["y"], single, dtype=np.float32)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    if not input_is_stated:
        del proto.graph.value_info[:]
        proto.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(proto, folder / "a.onnx")
    return folder / "a.onnx"


def verify_both(path: Path, constants: dict[str, np.ndarray]) -> tuple[Verification, Verification]:
    """Verify a network beside itself, and beside one whose first weight is 1 % larger."""
    wrong = onnx.load(path)
    (weight,) = [tensor for tensor in wrong.graph.initializer if tensor.name == next(iter(constants))]
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    onnx.save(wrong, path.with_name("b.onnx"))
    return verify(path, path), verify(path, path.with_name("b.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("what", NETWORKS)
def test_sizes_of_free_axes_follow_from_constants(what: str, tmp_path: Path) -> None:
    nodes, shape, constants = NETWORKS[what]

    right, wrong = verify_both(saved(tmp_path, nodes, [*shape], constants), constants)

    assert right.passes
    assert not wrong.passes


@pytest.mark.slow
def test_rank_of_an_input_follows_from_a_weight(tmp_path: Path) -> None:
    path = saved(tmp_path, CONV, ["n", 3, 8], CONV_WEIGHTS, input_is_stated=False)

    right, wrong = verify_both(path, CONV_WEIGHTS)

    assert right.passes
    assert not wrong.passes
    assert [info.shape[1] for info in Runner(path).inputs] == [3]


def test_input_of_unknown_rank_is_taken_from_a_file(tmp_path: Path) -> None:
    nodes = [node("Mul", ["x", "two"], ["b"])]
    path = saved(tmp_path, nodes, ["n", 5], {"two": np.array([2.0])}, input_is_stated=False)
    np.savez(tmp_path / "inputs.npz", x=np.ones((2, 5), np.float32))

    assert verify(path, path, tmp_path / "inputs.npz").passes
    with pytest.raises(ModelInputError, match=r"rank of input 'x' is not known; give inputs in an \.npz file"):
        verify(path, path)


def test_axes_of_one_name_agree_where_one_of_them_is_a_first_axis() -> None:
    """The batch stands first in a state, and second in a sequence."""
    infos = [
        ValueInfo("sequence", ir.DataType.FLOAT, (5, "batch", "length")),
        ValueInfo("state", ir.DataType.FLOAT, ("batch", "length")),
    ]

    assert input_shapes(infos, free_size=8, step=8, rows=3) == [(5, 3, 24), (3, 24)]
    assert [array.shape for array in random_inputs(infos, 8, seed=0).values()] == [(5, 3, 8), (3, 8)]


@pytest.mark.parametrize("nodes", [[], [node("ReduceSum", ["b", "axis"], ["r"])]], ids=["alone", "summed"])
def test_rows_are_found_dependent_where_a_single_one_is_given(nodes: list[NodeProto], tmp_path: Path) -> None:
    constants = {**CONV_WEIGHTS, "axis": np.array([0])}
    path = saved(tmp_path, [*CONV, *nodes], ["n", 3, 8], constants)
    proto = onnx.load(path)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 8]))
    onnx.save(proto, path)
    np.savez(tmp_path / "inputs.npz", x=RNG.normal(size=(1, 3, 8)).astype(np.float32))

    assert verify(path, path, tmp_path / "inputs.npz").batchable == (not nodes)


def test_suggested_sizes_begin_with_tables_and_leave_weights_out() -> None:
    nodes, _, constants = NETWORKS["a flattened map"]
    proto = model(
        [*nodes, node("Add", ["b", "table"], ["y"])],
        {"x": ["n", 3, "height", "width"]},
        ["y"],
        {**constants, "table": np.ones((7, 2))},
    )

    found = suggested_sizes(ir.from_proto(proto))

    assert found[:2] == [7, 2]
    assert 10 in found
    assert not {3, 100} & set(found)

"""The floor of an output follows its dtype, and what is printed as error is relative to the output's range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from normfold.export.files.fold_file import fold_file
from normfold.export.verify.measure import measure
from normfold.export.verify.tolerance import EPSILONS, FLOOR
from normfold.export.verify.verify import verify
from tests.support.onnx_models import batchnorm, model, statistics

TYPES = {
    "float16": (np.float16, TensorProto.FLOAT16),
    "bfloat16": (ml_dtypes.bfloat16, TensorProto.BFLOAT16),
    "float32": (np.float32, TensorProto.FLOAT),
    "float64": (np.float64, TensorProto.DOUBLE),
}


def network(dtype: str, kind: str = "Conv", blocks: int = 1) -> onnx.ModelProto:
    """Make blocks of a layer and a BatchNormalization in one precision."""
    rng, code = np.random.default_rng(0), TYPES[dtype][1]
    shape = (6, 6, 3, 3) if kind == "Conv" else (6, 6)
    nodes, constants, before = [], {}, "x"
    for place in range(blocks):
        pads = {"pads": [1] * 4} if kind == "Conv" else {}
        nodes.append(helper.make_node(kind, [before, f"w{place}", f"b{place}"], [f"h{place}"], **pads))
        nodes.append(batchnorm(f"h{place}", f"n{place}", f"bn{place}"))
        before = f"n{place}"
        constants |= {f"w{place}": rng.normal(size=shape) / np.sqrt(np.prod(shape[1:])), f"b{place}": np.zeros(6)}
        constants |= statistics(rng, 6, f"bn{place}") | {f"bn{place}.var": rng.uniform(0.5, 2.0, 6)}
    size = ["n", 6, 8, 8] if kind == "Conv" else ["n", 6]
    graph = helper.make_graph(
        nodes,
        dtype,
        [helper.make_tensor_value_info("x", code, size)],
        [helper.make_tensor_value_info(before, code, size)],
        [helper.make_tensor(name, code, array.shape, array.ravel()) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def with_shift(proto: onnx.ModelProto, shift: float) -> onnx.ModelProto:
    """Return a folded model with `shift` added to the bias of its last layer."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    layer = [node for node in changed.graph.node if node.op_type in ("Conv", "Gemm")][-1]
    bias = next(tensor for tensor in changed.graph.initializer if tensor.name == layer.input[2])
    values = onnx.numpy_helper.to_array(bias).astype(np.float64) + shift
    bias.CopyFrom(helper.make_tensor(bias.name, bias.data_type, values.shape, values.ravel()))
    return changed


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Conv", "Gemm"])
@pytest.mark.parametrize("dtype", TYPES)
def test_precision_of_a_right_fold_passes_and_of_a_wrong_bias_fails(dtype: str, kind: str, tmp_path: Path) -> None:
    onnx.save(network(dtype, kind), tmp_path / "a.onnx")

    right = fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx").verification
    assert right is not None
    assert right.passes
    share = {"float16": 0.03, "bfloat16": 0.15}.get(dtype, 1e-4) * (0.2 if kind == "Conv" else 1.0)
    span = 10.0
    onnx.save(with_shift(onnx.load(tmp_path / "b.onnx"), share * span), tmp_path / "c.onnx")
    assert not verify(tmp_path / "a.onnx", tmp_path / "c.onnx").passes


def test_precision_of_a_bias_that_is_off_by_four_thousandths_of_the_range_is_enough(tmp_path: Path) -> None:
    """The printed error was once divided by 977 times the largest value: 7.6e-6 for 4.1e-3, and `equal`."""
    onnx.save(network("float16"), tmp_path / "a.onnx")
    fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx")
    rng = np.random.default_rng(1)
    given = rng.normal(size=(2, 6, 8, 8)).astype(np.float16)
    np.savez(tmp_path / "x.npz", x=given)
    from normfold.export.verify.runner import Runner

    (output,) = Runner(tmp_path / "a.onnx").run({"x": given}).values()
    span = float(np.ptp(output.astype(np.float64)))
    onnx.save(with_shift(onnx.load(tmp_path / "b.onnx"), 4e-3 * span), tmp_path / "c.onnx")

    right = verify(tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "x.npz")
    wrong = verify(tmp_path / "a.onnx", tmp_path / "c.onnx", tmp_path / "x.npz")

    assert right.passes
    assert not wrong.passes
    (found,) = wrong.outputs.values()
    assert 3e-3 < found.error < 6e-3


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_precision_of_a_deep_network_is_no_difference(dtype: str, tmp_path: Path) -> None:
    onnx.save(network(dtype, blocks=16), tmp_path / "a.onnx")

    found = fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx").verification

    assert found is not None
    assert found.passes


@pytest.mark.parametrize(
    ("dtype", "epsilons"), [("float16", 2), ("bfloat16", 2), ("float32", FLOOR / EPSILONS["float32"]), ("float64", 64)]
)
def test_floor_is_in_units_of_the_dtypes_own_rounding(dtype: str, epsilons: float) -> None:
    wanted = np.linspace(-1, 1, 64).reshape(16, 4).astype(TYPES[dtype][0])

    found = measure([wanted], [wanted], [[[wanted]]])

    assert found.floor == pytest.approx(epsilons * EPSILONS[dtype])
    assert found.floor <= (1e-6 if dtype == "float32" else 1)
    assert EPSILONS[dtype] == float(ml_dtypes.finfo(TYPES[dtype][0]).eps)


@pytest.mark.parametrize("dtype", TYPES)
def test_error_is_relative_to_the_range_in_every_precision(dtype: str) -> None:
    wanted: Any = np.array([100.0, 104.0, 102.0]).astype(TYPES[dtype][0])
    got: Any = np.array([100.0, 104.0, 104.0]).astype(TYPES[dtype][0])

    found = measure([wanted], [got], [[[wanted]]])

    assert found.error == pytest.approx(0.5)
    assert not found.passes


def test_floor_is_one_unit_in_the_last_place_where_the_range_is_narrow() -> None:
    wanted = np.array([1000.0, 1001.0], np.float16)

    found = measure([wanted], [np.nextafter(wanted, np.float16(2000))], [[[wanted]]])

    assert found.error == pytest.approx(0.5)
    assert found.floor == pytest.approx(1001 * 2.0**-10)
    assert found.passes


@pytest.mark.slow
@pytest.mark.parametrize("narrow", [TensorProto.FLOAT16, TensorProto.BFLOAT16], ids=["float16", "bfloat16"])
def test_cast_to_a_narrower_float_in_the_middle_has_noise_of_its_own(narrow: int, tmp_path: Path) -> None:
    """A fold in front of such a Cast moves what it rounds, where an input moved by a float32's unit does not."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Cast", ["c"], ["half"], to=narrow),
        helper.make_node("Cast", ["half"], ["back"], to=TensorProto.FLOAT),
        batchnorm("back", "y"),
    ]
    weights = {"w": rng.normal(size=(4, 3, 3, 3)).astype("f"), **statistics(rng, 4, dtype=np.float32)}
    onnx.save(model(nodes, {"x": ["n", 3, 8, 8]}, ["y"], weights, dtype=np.float32), tmp_path / "a.onnx")

    found = fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx").verification

    assert found is not None
    assert found.outputs["y"].noise > 1e-4
    wrong = onnx.load(tmp_path / "b.onnx")
    (bias,) = [tensor for tensor in wrong.graph.initializer if len(tensor.dims) == 1]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.5), bias.name))
    onnx.save(wrong, tmp_path / "wrong.onnx")
    assert not verify(tmp_path / "a.onnx", tmp_path / "wrong.onnx").passes

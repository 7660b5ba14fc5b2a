"""Whole networks in float16: every architecture, published graphs, sizes, served answers, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from normfold.contract.errors import WriteError
from normfold.export.errors import Float16OverflowError, ModelFileError, ModelInputError
from normfold.export.files.fold_file import fold_file
from normfold.export.quantize.float16.convert import convert_to_float16
from normfold.export.quantize.float16.result import Float16Result
from tests.support.onnx_models import model, operators, run32, save_model, small_convnet
from tests.support.published_graphs import NAMES, published_graph
from tests.support.training import ARCHITECTURES, write_architecture

Convert = Callable[..., tuple[onnx.ModelProto, Float16Result]]


def folded_network(name: str, folder: Path) -> Path:
    """Write the folded network of an architecture, with random weights and statistics; return its path."""
    write_architecture(name, folder / "source.onnx")
    fold_file(folder / "source.onnx", folder / "folded.onnx", verified=False)
    return folder / "folded.onnx"


def sqnr_db(wanted: np.ndarray, got: np.ndarray) -> float:
    """Return signal to quantisation noise, in float64."""
    reference = wanted.astype(np.float64)
    return float(10 * np.log10((reference**2).sum() / ((reference - got) ** 2).sum()))


def weight_bytes(path: Path) -> int:
    """Return the size of the float constants of a file."""
    tensors = onnx.load(path).graph.initializer
    return sum(numpy_helper.to_array(each).nbytes for each in tensors if each.data_type != TensorProto.INT64)


def check_network(folded: Path, target: Path, report: Float16Result) -> None:
    """Check size, SQNR, and that ONNX Runtime's answers are those of the emulation."""
    assert report.float16_nodes > 0
    assert min(report.sqnr_db.values()) >= 55
    assert weight_bytes(target) == pytest.approx(weight_bytes(folded) / 2, rel=0.01)
    source = onnx.load(folded)
    (value,) = source.graph.input
    shape = [4, *(axis.dim_value for axis in value.type.tensor_type.shape.dim[1:])]
    rows = {value.name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    (wanted,), (served,) = run32(source, rows), run32(onnx.load(target), rows, optimised=True)
    # ONNX Runtime rounds fewer values on a CPU than the emulation, so its answer is no worse by more than noise
    assert sqnr_db(wanted, served) > min(report.sqnr_db.values()) - 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_is_converted_whole(name: str, tmp_path: Path) -> None:
    folded, target = folded_network(name, tmp_path), tmp_path / "half.onnx"
    report = convert_to_float16(folded, target)
    assert not report.float32_nodes
    check_network(folded, target, report)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_published_graph_is_converted(name: str, tmp_path: Path) -> None:
    """Random weights amplify noise, so less is asked of them than of trained networks."""
    onnx.save(published_graph(name), tmp_path / "source.onnx")
    fold_file(tmp_path / "source.onnx", tmp_path / "folded.onnx", verified=False)
    report = convert_to_float16(tmp_path / "folded.onnx", tmp_path / "half.onnx")
    assert min(report.sqnr_db.values()) > 40
    assert {each.operator for each in report.float32_nodes} <= {"ReduceL2", "Clip", "Expand", "Div"}
    half = onnx.load(tmp_path / "half.onnx")
    onnx.checker.check_model(half, full_check=True)
    assert operators(half).count("Cast") == report.casts
    assert weight_bytes(tmp_path / "half.onnx") == pytest.approx(weight_bytes(tmp_path / "folded.onnx") / 2, rel=0.01)


def test_served_answers_are_those_of_the_emulation(convert: Convert) -> None:
    rng = np.random.default_rng(3)
    nodes = []
    for place in range(4):
        nodes.append(helper.make_node("Conv", [f"r{place}", f"w{place}"], [f"h{place}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"h{place}"], [f"r{place + 1}"]))
    constants = {f"w{place}": rng.normal(size=(4, 4, 3, 3)).astype(np.float32) / 4 for place in range(4)}
    source = model(nodes, {"r0": ["n", 4, 5, 5]}, ["r4"], constants, dtype=np.float32)
    rows = {"r0": rng.standard_normal((8, 4, 5, 5)).astype(np.float32)}
    result, report = convert(source, inputs=rows)
    (wanted,), (served,) = run32(source, rows), run32(result, rows)
    assert report.sqnr_db["r4"] > 55
    # ONNX Runtime rounds less on a CPU, so its answers may be somewhat nearer to float32
    assert -3 < sqnr_db(wanted, served) - report.sqnr_db["r4"] < 8


def test_float16_input_gives_float16_output(convert: Convert) -> None:
    result, _ = convert(small_convnet(np.random.default_rng(0)), keep_io=False)
    rows = np.random.default_rng(1).standard_normal((2, 4, 5, 5)).astype(np.float16)
    (got,) = run32(result, {"x": rows})
    assert got.dtype == np.float16


OPERATORS = {
    "Relu": [],
    "Sigmoid": [],
    "Tanh": [],
    "Softmax": [],
    "Exp": [],
    "Sqrt": [],
    "Abs": [],
    "Softplus": [],
    "CumSum": ["axis"],
    "MatMul": ["w"],
    "Add": ["b"],
    "Mul": ["b"],
    "Div": ["b"],
    "Sub": ["tiny"],
    "Max": ["tiny"],
    "LpNormalization": [],
}


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(st.sampled_from(sorted(OPERATORS)), min_size=1, max_size=7), st.booleans(), st.integers(0, 99))
def test_random_chains_convert_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, chain: list[str], keep_io: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    constants = {
        "w": rng.normal(size=(4, 4)).astype(np.float32),
        "b": rng.normal(size=(4,)).astype(np.float32),
        "tiny": np.float32(1e-10),
        "axis": np.array(1),
    }
    values = ["x", *(f"v{place}" for place in range(len(chain)))]
    nodes = [
        helper.make_node(operator, [values[place], *OPERATORS[operator]], [values[place + 1]])
        for place, operator in enumerate(chain)
    ]
    outputs = sorted({values[-1], values[(seed % len(chain)) + 1]})
    source = model(nodes, {"x": ["n", 4]}, outputs, constants, dtype=np.float32)
    folder = tmp_path_factory.mktemp("chain")
    rows = {"x": np.abs(rng.normal(size=(3, 4))).astype(np.float32)}
    try:
        convert_to_float16(save_model(source, folder), folder / "half.onnx", keep_io=keep_io, inputs=rows)
    except (ModelFileError, Float16OverflowError):
        assert not (folder / "half.onnx").exists()
        return
    half = onnx.load(folder / "half.onnx")
    onnx.checker.check_model(half, full_check=True)
    kind = np.float32 if keep_io else np.float16
    got = run32(half, {"x": rows["x"].astype(kind)})
    for one, other in zip(run32(source, rows), got, strict=True):
        assert other.dtype == kind
        assert np.isfinite(other[np.isfinite(one)]).all()


def test_float16_network_is_refused(tmp_path: Path) -> None:
    source = save_model(small_convnet(np.random.default_rng(0), dtype=np.float16), tmp_path)
    with pytest.raises(ModelFileError, match="is in float16 already"):
        convert_to_float16(source, tmp_path / "half.onnx")


def test_float64_network_is_refused(tmp_path: Path) -> None:
    source = save_model(small_convnet(np.random.default_rng(0), dtype=np.float64), tmp_path)
    with pytest.raises(ModelFileError, match="is in float64; only float32 networks"):
        convert_to_float16(source, tmp_path / "half.onnx")


def test_quantised_network_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    source = model(nodes, {"x": ["n", 4]}, ["y"], {"s": np.float32(0.1), "z": np.uint8(0)}, dtype=np.float32)
    with pytest.raises(ModelFileError, match="is quantised to integers"):
        convert_to_float16(save_model(source, tmp_path), tmp_path / "half.onnx")


def test_network_without_floats_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "one"], ["y"])]
    source = model(nodes, {"x": ["n", 4]}, ["y"], {"one": np.int64(1)}, dtype=np.int64)
    with pytest.raises(ModelFileError, match="computes nothing in float32"):
        convert_to_float16(save_model(source, tmp_path), tmp_path / "half.onnx")


def test_network_of_float32_operators_alone_is_refused_with_a_reason(tmp_path: Path) -> None:
    nodes = [helper.make_node("LpNormalization", ["x"], ["y"], name="norm")]
    source = save_model(model(nodes, {"x": ["n", 4]}, ["y"], {}, dtype=np.float32), tmp_path)
    with pytest.raises(ModelFileError, match="nothing that can be computed in float16: LpNormalization 'norm'"):
        convert_to_float16(source, tmp_path / "half.onnx")


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ({"z": np.ones((2, 4, 5, 5), np.float32)}, "the network's inputs are ['x']"),
        ({"x": np.ones((2, 4, 5, 5))}, "is float64, the network's input float32"),
        ({"x": np.ones((2, 3, 5, 5), np.float32)}, "has shape [2, 3, 5, 5], the input ['n', 4, 5, 5]"),
        ({"x": np.ones((0, 4, 5, 5), np.float32)}, "is empty"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tmp_path: Path, inputs: dict[str, np.ndarray], problem: str) -> None:
    source = save_model(small_convnet(np.random.default_rng(0)), tmp_path)
    with pytest.raises(ModelInputError) as caught:
        convert_to_float16(source, tmp_path / "half.onnx", inputs=inputs)
    assert problem in str(caught.value)


def test_target_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    source = save_model(small_convnet(np.random.default_rng(0)), tmp_path)
    with pytest.raises(WriteError):
        convert_to_float16(source, tmp_path)


def test_source_may_be_replaced(tmp_path: Path) -> None:
    source = save_model(small_convnet(np.random.default_rng(0)), tmp_path)
    convert_to_float16(source, source)
    with pytest.raises(ModelFileError, match="is in float16 already"):
        convert_to_float16(source, source)


def test_steps_are_reported(tmp_path: Path) -> None:
    source, steps = save_model(small_convnet(np.random.default_rng(0)), tmp_path), list[str]()
    convert_to_float16(source, tmp_path / "half.onnx", progress=steps.append)
    assert steps == ["reading the model", "emulating float16", "converting to float16"]


def test_network_whose_layers_overflow_mostly_is_warned_of(convert: Convert) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="a"),
        helper.make_node("MatMul", ["x", "w"], ["b"], name="b"),
        helper.make_node("Relu", ["x"], ["c"]),
    ]
    source = model(nodes, {"x": ["n", 2]}, ["a", "b", "c"], {"w": 6e4 * np.eye(2, dtype=np.float32)}, dtype=np.float32)
    _, report = convert(source, inputs={"x": np.full((1, 2), 2, np.float32)})
    assert report.warnings == ("2 of 2 layers stay in float32: the network gains little in float16.",)

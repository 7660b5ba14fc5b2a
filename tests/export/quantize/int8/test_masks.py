"""Masks such as -inf and -1e9 set no range: the value stays float32 and is named, and the others keep their 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper

from normfold.export.errors import QuantizeError, SampleError
from tests.support.onnx_models import (
    SAMPLES,
    STATISTICS,
    batchnorm,
    model,
    quantised,
    run32,
    sqnr_db,
    statistics,
    with_output,
    with_statistics_of,
)

LEAST = float(np.finfo(np.float32).min)
MASK = ~np.tri(6, dtype=bool)


def masked(kind: str, number: float) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """Return the nodes from r to m that mask it, and their constants."""
    if kind == "where":
        return [helper.make_node("Where", ["mask", "number", "r"], ["m"])], {
            "mask": MASK,
            "number": np.float32(number),
        }
    if kind == "add":
        return [helper.make_node("Add", ["r", "sum"], ["m"])], {"sum": np.where(MASK, np.float32(number), 0)}
    if kind == "scaled":  # as of a mask that the caller gives
        nodes = [helper.make_node("Mul", ["ones", "number"], ["sum"]), helper.make_node("Add", ["r", "sum"], ["h"])]
        nodes += [helper.make_node("Transpose", ["h"], ["t"], perm=[0, 1, 3, 2])]
        nodes += [helper.make_node("Transpose", ["t"], ["m"], perm=[0, 1, 3, 2])]
        return nodes, {"ones": MASK.astype(np.float32), "number": np.float32(number)}
    nodes = [
        helper.make_node("Expand", ["number", "shape"], ["e"]),
        helper.make_node("Where", ["mask", "e", "r"], ["m"]),
    ]
    return nodes, {"number": np.float32(number), "shape": np.array([6, 6]), "mask": MASK}


def attention(kind: str, number: float) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a Conv, BatchNormalization and Relu, a masked Softmax of what it gives, and a Conv; and rows."""
    rng = np.random.default_rng(0)
    nodes, constants = masked(kind, number)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h0"], name="first", pads=[1] * 4),
        batchnorm("h0", "n"),
        helper.make_node("Relu", ["n"], ["r"]),
        *nodes,
        helper.make_node("Softmax", ["m"], ["s"], axis=-1),
        helper.make_node("Conv", ["s", "v"], ["y"], name="last"),
    ]
    constants = constants | {
        name: array.astype(np.float32)
        for name, array in {
            "w": rng.normal(size=(8, 4, 3, 3)) / 6,
            "v": rng.normal(size=(3, 8, 1, 1)),
            **statistics(rng, 8),
            "bn.scale": rng.uniform(0.5, 1.5, 8),
        }.items()
    }
    rows = {"x": rng.normal(size=(32, 4, 6, 6)).astype(np.float32)}
    return with_statistics_of(model(nodes, {"x": ["n", 4, 6, 6]}, ["y"], constants, dtype=np.float32), rows), rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "number", "way"),
    [
        ("where", -np.inf, STATISTICS),
        ("where", 1e30, SAMPLES),
        ("add", -np.inf, SAMPLES),
        ("add", LEAST, STATISTICS),
        ("expanded", LEAST, SAMPLES),
        ("expanded", -1e4, STATISTICS),
        ("scaled", -65504.0, SAMPLES),
        ("scaled", -1e9, STATISTICS),
    ],
)
def test_mask_sets_no_range(tmp_path: Path, kind: str, number: float, way: str) -> None:
    source, rows = attention(kind, number)
    before, after, result = quantised(source, tmp_path, way, rows)
    assert result.layers == ("first", "last")
    assert sqnr_db(run32(before, rows)[0], run32(after, rows, optimised=True)[0]) > 28
    value = "h" if kind == "scaled" else "m"
    assert [sentence for sentence in result.warnings if sentence.startswith(f"The value {value!r} stays in float32: ")]
    assert len(result.warnings) == 1
    rounded = {node.input[0] for node in after.graph.node if node.op_type == "QuantizeLinear"}
    assert rounded >= {"r", "s"}
    assert not {"m", "h", "t"} & rounded


def test_sentence_of_a_mask_gives_its_numbers(tmp_path: Path) -> None:
    source, rows = attention("where", -1e9)
    (sentence,) = quantised(source, tmp_path, SAMPLES, rows)[2].warnings
    (values,) = run32(with_output(source, "r"), rows)
    greatest = f"{values.max():.4g}"
    assert sentence == (
        f"The value 'm' stays in float32: it holds numbers of 1e+09 beside some of at most {greatest}, as a mask does."
    )
    source, rows = attention("where", -np.inf)
    (sentence,) = quantised(source, tmp_path, SAMPLES, rows)[2].warnings
    assert sentence == "The value 'm' stays in float32: it holds numbers that are not finite."


def test_large_numbers_without_a_mask_are_quantised(tmp_path: Path) -> None:
    """A network may compute in large numbers throughout, and a branch may be small beside a large one."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["large"]),
        helper.make_node("Gemm", ["large", "w"], ["h"], name="first"),
        helper.make_node("Gemm", ["x", "w"], ["small"], name="second"),
        helper.make_node("Add", ["h", "small"], ["sum"], name="add"),
        helper.make_node("Relu", ["sum"], ["r"]),
        helper.make_node("Gemm", ["r", "v"], ["y"], name="last"),
    ]
    constants = {"k": np.array(1e5), "w": rng.normal(size=(6, 8)), "v": rng.normal(size=(8, 4))}
    given = {name: array.astype(np.float32) for name, array in constants.items()}
    rows = {"x": rng.normal(size=(64, 6)).astype(np.float32)}
    before, after, result = quantised(
        model(nodes, {"x": ["n", 6]}, ["y"], given, dtype=np.float32), tmp_path, SAMPLES, rows
    )
    assert result.warnings == ()
    assert result.layers == ("first", "second", "last")
    rounded = {node.input[0] for node in after.graph.node if node.op_type == "QuantizeLinear"}
    assert {"large", "h", "small"} <= rounded
    assert sqnr_db(run32(before, rows)[0], run32(after, rows, optimised=True)[0]) > 28


def test_samples_that_overflow_are_refused_beside_a_mask(tmp_path: Path) -> None:
    source, rows = attention("where", -np.inf)
    with pytest.raises(SampleError, match="give the value '[nr]' numbers that are not finite"):
        quantised(source, tmp_path, SAMPLES, {"x": np.sign(rows["x"]) * np.float32(3e38)})


def test_value_that_is_no_number_stays_float_where_another_replaces_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], name="first"),
        helper.make_node("Sqrt", ["h"], ["root"]),
        helper.make_node("IsNaN", ["root"], ["none"]),
        helper.make_node("Where", ["none", "zero", "root"], ["r"]),
        helper.make_node("Gemm", ["r", "v"], ["y"], name="last"),
    ]
    constants = {"w": rng.normal(size=(6, 8)), "v": rng.normal(size=(8, 4)), "zero": np.array(0)}
    given = {name: array.astype(np.float32) for name, array in constants.items()}
    rows = {"x": rng.normal(size=(64, 6)).astype(np.float32)}
    source = model(nodes, {"x": ["n", 6]}, ["y"], given, dtype=np.float32)
    before, after, result = quantised(source, tmp_path, SAMPLES, rows)
    assert result.layers == ("first", "last")
    assert result.warnings == ("The value 'root' stays in float32: it holds numbers that are not finite.",)
    assert sqnr_db(run32(before, rows)[0], run32(after, rows, optimised=True)[0]) > 20


def test_network_whose_layers_all_read_a_mask_is_refused_with_the_reason(tmp_path: Path) -> None:
    nodes = [helper.make_node("Where", ["mask", "x", "low"], ["m"]), helper.make_node("MatMul", ["m", "w"], ["y"])]
    constants = {"mask": np.tri(4, dtype=bool)[3], "low": np.float32(-1e9), "w": np.eye(4, dtype=np.float32)}
    constants["mask"] = np.array([True, True, False, True])
    source = model(nodes, {"x": ["n", 4]}, ["y"], constants, dtype=np.float32)
    rows = {"x": np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)}
    with pytest.raises(QuantizeError, match=r"No Conv, Gemm or MatMul of '.*' can run in int8: The value 'm' stays"):
        quantised(source, tmp_path, SAMPLES, rows)
    assert not (tmp_path / "int8.onnx").exists()

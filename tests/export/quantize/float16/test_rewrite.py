"""Where a converted graph computes in float16, where in float32, and the Casts between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from normfold.export.quantize.float16.convert import convert_to_float16
from normfold.export.quantize.float16.result import Float16Result
from tests.support.onnx_models import model, operators, run32, small_convnet

Convert = Callable[..., tuple[onnx.ModelProto, Float16Result]]

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(4, 4)).astype(np.float32)


def float32_model(nodes: list[onnx.NodeProto], *outputs: str, opset: int = 17, **constants: object) -> onnx.ModelProto:
    """Make a float32 model of one input x (n, 4)."""
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    return model(nodes, {"x": ["n", 4]}, outputs or ["y"], arrays, opset=opset, dtype=np.float32)


def dtypes(proto: onnx.ModelProto) -> dict[str, int]:
    """Return the dtype of each value that a graph's nodes make, of its inputs and of its constants."""
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    graph = inferred.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def test_inputs_and_outputs_stay_float32_with_a_cast_at_each(convert: Convert) -> None:
    result, report = convert(small_convnet(RNG))
    assert operators(result) == ["Cast", "Conv", "BatchNormalization", "Relu", "Flatten", "Gemm", "Cast"]
    assert report.casts == 2
    assert report.float16_nodes == 5
    assert not report.float32_nodes
    kinds = dtypes(result)
    assert (kinds.pop("x"), kinds.pop("y")) == (TensorProto.FLOAT, TensorProto.FLOAT)
    assert set(kinds.values()) == {TensorProto.FLOAT16}


def test_inputs_and_outputs_become_float16_when_asked(convert: Convert) -> None:
    result, report = convert(small_convnet(RNG), keep_io=False)
    assert report.casts == 0
    assert set(dtypes(result).values()) == {TensorProto.FLOAT16}
    assert [value.name for value in (*result.graph.input, *result.graph.output)] == ["x", "y"]


def test_operator_whose_schema_takes_no_float16_stays_float32(convert: Convert) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Bernoulli", ["h"], ["b"], name="draw"),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
        helper.make_node("TfIdfVectorizer", ["i"], ["t"], name="tfidf", mode="TF", min_gram_length=1,
                         max_gram_length=1, max_skip_count=0, ngram_counts=[0], ngram_indexes=[0], pool_int64s=[1]),
        helper.make_node("Add", ["y", "t"], ["z"]),
    ]  # fmt: skip
    source = float32_model(nodes, "b", "z", w=WEIGHT, v=WEIGHT[:, :1], i=np.array([[1]], np.int64))
    result, report = convert(source)
    reasons = {each.node: each.reason for each in report.float32_nodes}
    assert reasons == {
        "draw": "an attribute states the dtype of its output",
        "tfidf": "its schema in opset 17 takes no float16",
    }
    assert dtypes(result)["t"] == TensorProto.FLOAT
    assert dtypes(result)["h"] == TensorProto.FLOAT16


def test_operator_of_another_domain_stays_float32(convert: Convert) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("BiasGelu", ["h", "b"], ["g"], name="gelu", domain="com.microsoft"),
        helper.make_node("MatMul", ["g", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(WEIGHT[0], "b")],
        value_info=[helper.make_tensor_value_info("g", TensorProto.FLOAT, ["n", 4])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    source = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    result, report = convert(source)
    assert [each.node for each in report.float32_nodes] == ["gelu"]
    assert operators(result) == ["Cast", "MatMul", "Cast", "BiasGelu", "Cast", "MatMul", "Cast"]


@pytest.mark.parametrize(("reduction", "count"), [("none", 0), ("add", 1)])
def test_scatter_stays_float32_where_it_reduces(convert: Convert, reduction: str, count: int) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("ScatterND", ["h", "place", "row"], ["y"], name="scatter", reduction=reduction),
    ]
    source = float32_model(nodes, w=WEIGHT, place=np.array([[1]]), row=WEIGHT[:1])
    result, report = convert(source)
    assert [each.node for each in report.float32_nodes] == ["scatter"] * count
    rows = {"x": RNG.normal(size=(3, 4)).astype(np.float32)}
    np.testing.assert_allclose(run32(result, rows)[0], run32(source, rows)[0], atol=2e-2)


def test_sizes_are_computed_in_float32(convert: Convert) -> None:
    """4099 is no float16: rounded to 4100, the Reshape would fail."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=1, end=2),
        helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "one"], ["m"], name="multiply"),
        helper.make_node("Cast", ["m"], ["size"], to=TensorProto.INT64),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Reshape", ["r", "size"], ["y"]),
    ]
    source = model(nodes, {"x": [1, 4099]}, ["y"], {"one": np.float32(1)}, dtype=np.float32)
    result, report = convert(source)
    assert "computed from integers" in report.float32_nodes[-1].reason
    assert "multiply" in [each.node for each in report.float32_nodes]
    assert run32(result, {"x": np.ones((1, 4099), np.float32)})[0].shape == (4099,)


def test_constant_that_both_read_is_copied(convert: Convert) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "s"], ["h"]),
        helper.make_node("CumSum", ["h", "axis"], ["c"]),
        helper.make_node("LpNormalization", ["c"], ["p"]),
        helper.make_node("CumSum", ["s", "axis"], ["q"]),
        helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    scale = RNG.normal(size=(1, 4)).astype(np.float32)
    result, _ = convert(float32_model(nodes, s=scale, axis=np.array(1)))
    kinds = dtypes(result)
    assert (kinds["s"], kinds["s.float16"]) == (TensorProto.FLOAT, TensorProto.FLOAT16)
    assert kinds["axis"] == TensorProto.INT64
    # c is read by a float32 node alone: no Casts stand between the two
    assert operators(result).count("Cast") == 5


def test_own_casts_that_convert_nothing_any_more_are_removed(convert: Convert) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT16),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Cast", ["c"], ["d"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    result, _ = convert(float32_model(nodes, w=WEIGHT))
    assert operators(result) == ["Cast", "MatMul", "Relu", "MatMul", "Cast"]


def test_cast_of_integers_gives_float16(convert: Convert) -> None:
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["g"]),
        helper.make_node("Cast", ["g"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    result, report = convert(float32_model(nodes, w=WEIGHT, zero=np.float32(0)))
    assert not report.float32_nodes
    assert result.graph.node[2].attribute[0].i == TensorProto.FLOAT16


def test_constant_nodes_and_constants_of_a_shape_become_float16(convert: Convert) -> None:
    nodes = [
        helper.make_node("Constant", [], ["k"], value_float=0.1),
        helper.make_node("Constant", [], ["out"], value_floats=[1.5, 2.5]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ConstantOfShape", ["shape"], ["ones"], value=numpy_helper.from_array(np.ones(1, np.float32))),
        helper.make_node("Add", ["zeros", "ones"], ["filled"]),
        helper.make_node("Add", ["filled", "k"], ["h"]),
        helper.make_node("Mul", ["x", "h"], ["y"]),
    ]
    source = float32_model(nodes, "y", "out")
    for keep_io in (True, False):
        result, report = convert(source, keep_io=keep_io)
        assert not report.float32_nodes
        kinds = dtypes(result)
        assert {kinds[name] for name in ("k", "zeros", "ones", "filled")} == {TensorProto.FLOAT16}
        rows = np.ones((2, 4), np.float32 if keep_io else np.float16)
        y, out = run32(result, {"x": rows})
        np.testing.assert_allclose(y, 1.1, rtol=1e-3)
        np.testing.assert_array_equal(out, [1.5, 2.5])


def test_scales_and_region_of_a_resize_stay_float32(convert: Convert) -> None:
    nodes = [helper.make_node("Resize", ["x", "roi", "scales"], ["r"], mode="linear")]
    nodes += [helper.make_node("Conv", ["r", "w"], ["y"])]
    constants = {
        "roi": np.zeros(0, np.float32),
        "scales": np.array([1, 1, 1.7, 1.3], np.float32),
        "w": RNG.normal(size=(2, 3, 1, 1)).astype(np.float32),
    }
    source = model(nodes, {"x": ["n", 3, "h", "w"]}, ["y"], constants, dtype=np.float32)
    result, _ = convert(source)
    kinds = dtypes(result)
    assert kinds["scales"] == kinds["roi"] == TensorProto.FLOAT
    assert kinds["r"] == TensorProto.FLOAT16
    x = {"x": RNG.normal(size=(1, 3, 10, 10)).astype(np.float32)}
    assert run32(result, x)[0].shape == run32(source, x)[0].shape


def body(name: str, operator: str, weight: str = "w") -> onnx.GraphProto:
    """Make a body that reads the value h and a weight of the graph around it."""
    output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node(operator, ["h", weight], [name])], name, [], [output])


def test_body_of_control_flow_stays_float32_and_reads_casts(convert: Convert) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("ReduceSum", ["h"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["i"], name="if", then_branch=body("t", "MatMul"), else_branch=body("e", "Add")),
        helper.make_node("MatMul", ["i", "w"], ["y"]),
    ]
    source = float32_model(nodes, w=WEIGHT, zero=np.float32(0))
    given = {"x": RNG.random((4, 4)).astype(np.float32)}
    result, report = convert(source, inputs=given)
    assert [(each.node, each.reason) for each in report.float32_nodes] == [
        ("if", "it has a body, which stays in float32 as a whole")
    ]
    for sign in (1, -1):
        rows = {"x": sign * given["x"]}
        (wanted,), (got,) = run32(source, rows), run32(result, rows)
        np.testing.assert_allclose(got, wanted, atol=2e-2)


def test_names_that_casts_would_have_stay(convert: Convert) -> None:
    """The network may call its values, and those inside its bodies, as the conversion does."""
    output = helper.make_tensor_value_info("h.float32", TensorProto.FLOAT, None)
    inner = helper.make_graph([helper.make_node("Relu", ["h"], ["h.float32"])], "t", [], [output])
    nodes = [
        helper.make_node("MatMul", ["x", "x.float16"], ["h"], name="x.float16.cast"),
        helper.make_node("ReduceMax", ["h"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["i"], name="if", then_branch=inner, else_branch=body("e", "Add", "x.float16")),
        helper.make_node("MatMul", ["i", "x.float16"], ["y.float16"], name="x.float16.1.cast"),
        helper.make_node("MatMul", ["y.float16", "x.float16"], ["y"]),
    ]
    source = float32_model(nodes, zero=np.float32(-100), **{"x.float16": WEIGHT})
    rows = {"x": RNG.random((4, 4)).astype(np.float32)}
    result, _ = convert(source, inputs=rows)
    assert [each.name for each in result.graph.output] == [each.name for each in source.graph.output]
    for wanted, got in zip(run32(source, rows), run32(result, rows), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-2, atol=2e-2)


def test_default_of_an_input_can_still_be_overridden(convert: Convert) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    source = float32_model(nodes, w=WEIGHT)
    source.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4]))
    rows = np.ones((2, 4), np.float32)
    for keep_io, dtype in ((True, np.float32), (False, np.float16)):
        result, _ = convert(source, keep_io=keep_io)
        given = {"x": rows.astype(dtype), "w": np.eye(4, dtype=dtype)}
        np.testing.assert_array_equal(run32(result, given)[0], rows)
        np.testing.assert_allclose(run32(result, {"x": given["x"]})[0], rows @ WEIGHT, atol=1e-2)


@pytest.mark.parametrize("keep_io", [True, False])
def test_output_that_is_also_read_is_converted_once(convert: Convert, keep_io: bool) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("CumSum", ["h", "axis"], ["c"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    source = float32_model(nodes, "h", "c", "r", "y", w=WEIGHT, axis=np.array(1))
    result, _ = convert(source, keep_io=keep_io)
    wanted = TensorProto.FLOAT if keep_io else TensorProto.FLOAT16
    assert {value.name: value.type.tensor_type.elem_type for value in result.graph.output} == dict.fromkeys(
        ("h", "c", "r", "y"), wanted
    )
    rows = {"x": RNG.normal(size=(3, 4)).astype(np.float32 if keep_io else np.float16)}
    for got, want in zip(run32(result, rows), run32(source, {"x": rows["x"].astype(np.float32)}), strict=True):
        np.testing.assert_allclose(got.astype(np.float32), want, atol=3e-2)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 21])
def test_opset_and_ir_version_stay(convert: Convert, opset: int) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    source = float32_model(nodes, opset=opset, w=WEIGHT)
    result, report = convert(source)
    assert [(entry.domain, entry.version) for entry in result.opset_import] == [("", opset)]
    assert result.ir_version == source.ir_version
    assert report.float16_nodes == 2


def test_value_infos_state_the_new_dtypes(convert: Convert) -> None:
    result, _ = convert(small_convnet(RNG))
    stated = {value.name: value.type.tensor_type.elem_type for value in result.graph.value_info}
    assert stated["h"] == stated["n1"] == stated["r"] == TensorProto.FLOAT16


def test_weights_in_another_file_stay_there(tmp_path: Path) -> None:
    source = float32_model([helper.make_node("MatMul", ["x", "w"], ["y"])], w=np.tile(WEIGHT, (1, 64)))
    rows = {"x": np.ones((2, 4), np.float32)}
    (wanted,) = run32(source, rows)
    (tmp_path / "in").mkdir()
    onnx.save(source, tmp_path / "in/net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    convert_to_float16(tmp_path / "in/net.onnx", tmp_path / "half.onnx")
    assert (tmp_path / "half.onnx.data").stat().st_size == 4 * 256 * 2
    (got,) = run32(onnx.load(tmp_path / "half.onnx"), rows)
    np.testing.assert_allclose(got, wanted, atol=1e-2)

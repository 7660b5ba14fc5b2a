"""A Mul and an Add that no layer takes become one BatchNormalization, which is known for what it is everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import NodeProto, helper, numpy_helper

from normfold.export.adapt.recalibrate import recalibrate
from normfold.export.adapt.samples import Samples
from normfold.export.errors import NotAdaptableError
from normfold.export.files.audit_file import audit_onnx
from normfold.export.files.fold_file import fold_file
from normfold.export.fold.batchnorm_parameters import is_canonical
from normfold.export.fold.fold import fold
from normfold.export.fold.report import FoldReport
from tests.support.onnx_models import assert_same, batchnorm, folded, model, operators, statistics

IMAGE = {"x": ["n", 4, 5, 5]}


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


def vector(rng: np.random.Generator, *shape: int) -> Any:
    return rng.uniform(0.5, 2, size=shape or (4, 1, 1))


def check(nodes: list[NodeProto], constants: dict[str, Any], wanted: list[str], **options: Any) -> FoldReport:
    """Fold once and again: the operators are those wanted, and outputs stay."""
    inputs: Any = options.pop("inputs", IMAGE)
    source = model(nodes, inputs, ["y"], constants, **options)
    result, report = folded(source)
    assert operators(result) == wanted
    again, _ = folded(result)
    assert operators(again) == wanted
    shape = [2 if isinstance(size, str) else size for size in inputs["x"]]
    assert_same(source, result, {"x": np.random.default_rng(1).normal(size=shape)})
    return report


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("first", "second"),
    [("Mul", "Add"), ("Add", "Mul"), ("Mul", "Sub"), ("Sub", "Mul"), ("Div", "Add"), ("Sub", "Div")],
)
def test_mul_and_add_become_one_batchnorm(first: str, second: str, rng: np.random.Generator) -> None:
    nodes = [node("Tanh", "x", "t"), node(first, "t a", "u"), node(second, "u b", "v"), node("Relu", "v", "y")]

    report = check(nodes, {"a": vector(rng), "b": vector(rng)}, ["Tanh", "BatchNormalization", "Relu"])

    assert (report.batchnorm_before, report.batchnorm_after, report.batchnorm_made) == (0, 0, 1)


def test_mul_and_add_may_have_the_constant_first(rng: np.random.Generator) -> None:
    nodes = [node("Tanh", "x", "t"), node("Mul", "a t", "u"), node("Sub", "b u", "v"), node("Relu", "v", "y")]

    check(nodes, {"a": vector(rng), "b": vector(rng)}, ["Tanh", "BatchNormalization", "Relu"])


def test_mul_and_add_with_a_scalar_between_become_one_batchnorm(rng: np.random.Generator) -> None:
    nodes = [node("Tanh", "x", "t"), node("Mul", "t a", "u"), node("Mul", "u s", "v"), node("Add", "v b", "w"),
             node("Relu", "w", "y")]  # fmt: skip

    check(nodes, {"a": vector(rng), "b": vector(rng), "s": np.array(0.5)}, ["Tanh", "BatchNormalization", "Relu"])


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 14, 15, 18])
def test_mul_and_add_become_one_batchnorm_in_every_opset(opset: int, rng: np.random.Generator) -> None:
    nodes = [node("Tanh", "x", "t"), node("Mul", "t a", "u"), node("Add", "u b", "v"), node("Relu", "v", "y")]
    wanted = ["Tanh", "BatchNormalization", "Relu"]

    check(nodes, {"a": vector(rng, 4), "b": vector(rng, 4)}, wanted, opset=opset, inputs={"x": ["n", 4]})


def test_mul_and_add_on_the_last_of_three_axes_stay(rng: np.random.Generator) -> None:
    nodes = [node("Tanh", "x", "t"), node("Mul", "t a", "u"), node("Add", "u b", "v"), node("Relu", "v", "y")]
    constants = {"a": vector(rng, 6), "b": vector(rng, 6)}

    check(nodes, constants, ["Tanh", "Mul", "Add", "Relu"], inputs={"x": ["n", 4, 6]})


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([("Mul", "t a", "u")], {"a": (4, 1, 1)}),
        ([("Add", "t a", "u")], {"a": (4, 1, 1)}),
        ([("Mul", "t a", "s"), ("Add", "s b", "u")], {"a": (), "b": ()}),
        ([("Mul", "t a", "s"), ("Add", "s b", "u")], {"a": (4, 1, 1), "b": (1, 5)}),
    ],
    ids=["Mul alone", "Add alone", "scalars", "other axis"],
)
def test_affine_that_is_scalar_alone_or_of_two_axes_stays(
    nodes: list[tuple[str, str, str]], constants: dict[str, tuple[int, ...]], rng: np.random.Generator
) -> None:
    made = [node("Tanh", "x", "t"), *(node(*each) for each in nodes), node("Relu", "u", "y")]
    arrays = {name: rng.uniform(0.5, 2, size=shape) for name, shape in constants.items()}

    report = check(made, arrays, [each.op_type for each in made])

    assert report.batchnorm_made == 0


def test_a_value_between_that_is_read_elsewhere_keeps_mul_and_add(rng: np.random.Generator) -> None:
    nodes = [node("Tanh", "x", "t"), node("Mul", "t a", "u"), node("Add", "u b", "v"), node("Relu", "v", "w"),
             node("Concat", "w u", "y", axis=1)]  # fmt: skip

    check(nodes, {"a": vector(rng), "b": vector(rng)}, [each.op_type for each in nodes])


def test_mul_and_add_of_a_decomposed_layer_norm_stay(rng: np.random.Generator) -> None:
    nodes = [node("ReduceMean", "x", "m", axes=[1]), node("Sub", "x m", "d"), node("Mul", "d d", "q"),
             node("ReduceMean", "q", "v", axes=[1]), node("Sqrt", "v", "r"), node("Div", "d r", "z"),
             node("Mul", "z a", "u"), node("Add", "u b", "w"), node("Relu", "w", "y")]  # fmt: skip

    check(nodes, {"a": vector(rng), "b": vector(rng)}, [each.op_type for each in nodes])


@pytest.mark.parametrize("inverse", ["Reciprocal", "Pow", "Div"])
def test_mul_and_add_of_a_layer_norm_that_multiplies_by_an_inverse_stay(inverse: str, rng: np.random.Generator) -> None:
    nodes = [node("ReduceMean", "x", "m", axes=[1]), node("Sub", "x m", "d"), node("Mul", "d d", "q"),
             node("ReduceMean", "q", "v", axes=[1])]  # fmt: skip
    nodes += {
        "Reciprocal": [node("Sqrt", "v", "r"), node("Reciprocal", "r", "i")],
        "Pow": [node("Pow", "v half", "i")],
        "Div": [node("Sqrt", "v", "r"), node("Div", "one r", "i")],
    }[inverse]
    nodes += [node("Mul", "d i", "z"), node("Mul", "z a", "u"), node("Add", "u b", "w"), node("Relu", "w", "y")]
    constants = {"a": vector(rng), "b": vector(rng), "half": np.array(-0.5), "one": np.array(1.0)}
    read = {name for each in nodes for name in each.input}

    wanted = [each.op_type for each in nodes]
    check(nodes, {name: array for name, array in constants.items() if name in read}, wanted)


def test_mul_and_add_behind_a_gated_activation_become_one_batchnorm(rng: np.random.Generator) -> None:
    """The product of two activations before them is no normalisation."""
    nodes = [node("Sigmoid", "x", "s"), node("Mul", "x s", "t"), node("Mul", "t a", "u"), node("Add", "u b", "v"),
             node("Relu", "v", "y")]  # fmt: skip

    check(nodes, {"a": vector(rng), "b": vector(rng)}, ["Sigmoid", "Mul", "BatchNormalization", "Relu"])


def test_mul_and_add_on_a_product_of_activations_before_a_softmax_stay(rng: np.random.Generator) -> None:
    nodes = [node("Transpose", "x", "k", perm=[0, 1, 3, 2]), node("MatMul", "x k", "s"), node("Mul", "s a", "u"),
             node("Add", "u b", "v"), node("Softmax", "v", "y")]  # fmt: skip

    check(nodes, {"a": vector(rng), "b": vector(rng)}, [each.op_type for each in nodes])


def test_mul_and_add_that_a_layer_takes_go_into_it(rng: np.random.Generator) -> None:
    nodes = [node("Tanh", "x", "t"), node("Mul", "t a", "u"), node("Add", "u b", "v"), node("Conv", "v w", "y")]
    constants = {"a": vector(rng), "b": vector(rng), "w": rng.normal(size=(3, 4, 1, 1))}

    report = check(nodes, constants, ["Tanh", "Conv"])

    assert (report.affines, report.batchnorm_made) == (2, 0)


def test_mul_and_add_on_a_branch_are_merged_into_its_conv(rng: np.random.Generator) -> None:
    """The BatchNormalization that they become is one kernel, and the sum of both is one Conv."""
    nodes = [node("Tanh", "x", "t"), node("Conv", "t w", "c"), node("Mul", "t a", "u"), node("Add", "u b", "v"),
             node("Add", "c v", "s"), node("Relu", "s", "y")]  # fmt: skip
    constants = {"a": vector(rng), "b": vector(rng), "w": rng.normal(size=(4, 4, 1, 1))}

    check(nodes, constants, ["Tanh", "Conv", "Relu"])


NHWC = {"x": ["N", 5, 6, 4]}
TO_NCHW = [0, 3, 1, 2]


def before_transpose(*activations: str, perm: Sequence[int] = TO_NCHW) -> list[NodeProto]:
    """Make a Mul and an Add on the last axis, activations, a Transpose, and a Tanh behind it."""
    nodes, last = [node("Tanh", "x", "t"), node("Mul", "t a", "u"), node("Add", "u b", "v")], "v"
    for number, activation in enumerate(activations):
        nodes.append(node(activation, last, f"r{number}"))
        last = f"r{number}"
    return [*nodes, node("Transpose", last, "p", perm=perm), node("Tanh", "p", "y")]


@pytest.mark.parametrize("activations", [(), ("Relu",), ("Relu", "LeakyRelu")], ids=len)
def test_mul_and_add_before_a_transpose_become_one_batchnorm_behind_it(
    activations: tuple[str, ...], rng: np.random.Generator
) -> None:
    constants = {"a": rng.normal(size=4), "b": rng.normal(size=4)}

    wanted = ["Tanh", "Transpose", "BatchNormalization", *activations, "Tanh"]
    check(before_transpose(*activations), constants, wanted, inputs=NHWC)


def test_transpose_that_goes_ahead_may_give_an_output(rng: np.random.Generator) -> None:
    *nodes, _ = before_transpose("Relu")
    nodes[-1].output[0] = "y"

    wanted = ["Tanh", "Transpose", "BatchNormalization", "Relu"]
    check(nodes, {"a": rng.normal(size=4), "b": rng.normal(size=4)}, wanted, inputs=NHWC)


@pytest.mark.parametrize(
    "nodes",
    [
        before_transpose("Relu", perm=[0, 1, 3, 2]),
        before_transpose("Softmax"),
        [*before_transpose("Relu")[:-1], node("ReduceSum", "r0", "s"), node("Mul", "p s", "y")],
        [*before_transpose("Relu")[:-1], node("ReduceSum", "v", "s"), node("Mul", "p s", "y")],
    ],
    ids=["channels stay last", "softmax", "activation is read twice", "sum is read twice"],
)
def test_mul_and_add_stay_before_a_transpose_that_cannot_go_ahead(
    nodes: list[NodeProto], rng: np.random.Generator
) -> None:
    constants = {"a": rng.normal(size=4), "b": rng.normal(size=4)}

    check(nodes, constants, [each.op_type for each in nodes], inputs=NHWC)


def behind_concat(*after: NodeProto) -> list[NodeProto]:
    """Make a Concat of activations, a BatchNormalization, the nodes given, and a Relu: no layer takes the affines."""
    last = after[-1].output[0] if after else "n"
    return [node("Relu", "x", "r"), node("Tanh", "x", "t"), node("Concat", "r t", "c", axis=1),
            batchnorm("c", "n"), *after, node("Relu", last, "y")]  # fmt: skip


@pytest.mark.parametrize(
    "after",
    [
        [node("Mul", "n a", "m"), node("Add", "m b", "s")],
        [node("Mul", "n a", "s")],
        [node("Add", "n b", "s")],
        [node("Mul", "n h", "m"), node("Add", "m b", "s")],
        [node("Mul", "n h", "m"), node("Add", "m h", "s")],
    ],
    ids=["Mul and Add", "Mul", "Add", "scalar Mul and Add", "scalars"],
)
def test_batchnorm_absorbs_what_follows_and_keeps_its_statistics(
    after: list[NodeProto], rng: np.random.Generator
) -> None:
    constants = {"a": vector(rng, 8, 1, 1), "b": vector(rng, 8, 1, 1), "h": np.array(0.5)} | statistics(rng, 8)
    read = {name for each in after for name in each.input} | {name for name in constants if name.startswith("bn.")}
    constants = {name: array for name, array in constants.items() if name in read}
    source = model(behind_concat(*after), IMAGE, ["y"], constants)

    report = check(behind_concat(*after), constants, ["Relu", "Tanh", "Concat", "BatchNormalization", "Relu"])

    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in folded(source)[0].graph.initializer}
    np.testing.assert_array_equal(kept["bn.mean"], constants["bn.mean"])
    np.testing.assert_array_equal(kept["bn.var"], constants["bn.var"])
    assert (report.batchnorm_after, report.batchnorm_made, report.affines) == (1, 0, len(after))


def test_batchnorm_goes_into_a_mul_and_an_add_that_it_cannot_absorb(rng: np.random.Generator) -> None:
    """They are of every element, so it can take neither; then they take it."""
    nodes = [node("Tanh", "x", "t"), batchnorm("t", "n"), node("Flatten", "n", "f"), node("Mul", "f a", "m"),
             node("Add", "m b", "s"), node("Relu", "s", "y")]  # fmt: skip
    constants = {"a": vector(rng, 100), "b": vector(rng, 100)} | statistics(rng, 4)

    report = check(nodes, constants, ["Tanh", "Flatten", "BatchNormalization", "Relu"])

    assert (report.batchnorm_after, report.batchnorm_made) == (0, 1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_batchnorm_of_mul_and_add_is_canonical_and_exact(dtype: Any, rng: np.random.Generator) -> None:
    nodes = [node("Tanh", "x", "t"), node("Mul", "t a", "u"), node("Add", "u b", "v"), node("Relu", "v", "y")]
    constants = {"a": vector(rng).astype(dtype), "b": vector(rng).astype(dtype)}
    working = ir.from_proto(model(nodes, IMAGE, ["y"], constants, dtype=dtype))
    fold(working)

    made = next(each for each in working.graph if each.op_type == "BatchNormalization")

    assert is_canonical(made)
    scale, shift, mean, var = (value.const_value.numpy() for value in made.inputs[1:])  # type: ignore[union-attr]
    np.testing.assert_array_equal(scale, constants["a"].reshape(-1))
    np.testing.assert_array_equal(shift, constants["b"].reshape(-1))
    assert not mean.any()
    assert {array.dtype for array in (scale, shift, mean, var)} == {np.dtype(dtype)}
    if dtype == np.float32:
        assert np.all(var + np.float32(made.attributes.get_float("epsilon")) == 1)


@pytest.mark.parametrize(
    ("field", "value"), [("mean", 1e-3), ("var", 1.0), ("var", 1 - 2**-15)], ids=["mean", "variance 1", "variance"]
)
def test_batchnorm_with_other_statistics_is_not_canonical(field: str, value: float) -> None:
    fields = {"bn.scale": np.ones(4), "bn.shift": np.ones(4), "bn.mean": np.zeros(4), "bn.var": np.full(4, 1 - 2**-16)}
    node_ = batchnorm("x", "y", epsilon=2**-16)

    def read(constants: dict[str, Any]) -> bool:
        typed = {name: array.astype(np.float32) for name, array in constants.items()}
        working = ir.from_proto(model([node_], IMAGE, ["y"], typed, dtype=np.float32))
        return is_canonical(next(iter(working.graph)))

    assert read(fields)
    fields[f"bn.{field}"][2] = value
    assert not read(fields)


@pytest.fixture
def written(rng: np.random.Generator, tmp_path: Path) -> Path:
    """Write a folded model whose one BatchNormalization is canonical."""
    nodes = [node("Tanh", "x", "t"), node("Mul", "t a", "u"), node("Add", "u b", "v"), node("Relu", "v", "y")]
    constants = {name: vector(rng).astype(np.float32) for name in "ab"}
    constants["a"][0] = 1e-4
    onnx.save(model(nodes, IMAGE, ["y"], constants, dtype=np.float32), tmp_path / "a.onnx")
    done = fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert done.verification is not None
    assert done.verification.passes
    return tmp_path / "b.onnx"


@pytest.mark.slow
def test_canonical_batchnorm_has_no_findings_and_no_warning(written: Path) -> None:
    assert audit_onnx(written).findings == ()
    report = fold(ir.load(written))
    assert report.warnings == []
    assert report.parameters == {}
    assert (report.batchnorm_before, report.batchnorm_after, report.batchnorm_made) == (1, 1, 0)


@pytest.mark.slow
def test_canonical_batchnorm_is_not_recalibrated(written: Path) -> None:
    samples = Samples(40, lambda start, stop: {"x": np.ones((stop - start, 4, 5, 5), np.float32)})
    with pytest.raises(NotAdaptableError, match="no BatchNormalization"):
        recalibrate(ir.load(written), samples, prior=0.0)

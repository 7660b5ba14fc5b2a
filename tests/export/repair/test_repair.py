"""BatchNormalization in training mode, or by statistics of the batch, before and after a repair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

from normfold.export.errors import NotAdaptableError, RepairError, SampleCountError, UnstableSamplesError
from normfold.export.files.fold_file import fold_file
from normfold.export.repair.repair import RepairedFile, repair_file
from tests.support.onnx_models import (
    batchnorm,
    constants_of,
    model,
    operators,
    run32,
    set_training_mode,
    small_convnet,
    statistics,
    with_output,
)

RNG = np.random.default_rng(0)
COUNT = 40


def weight(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def rows(count: int = COUNT) -> np.ndarray:
    return np.random.default_rng(1).normal(1, 2, (count, 2, 4, 4)).astype(np.float32)


def repaired(
    proto: onnx.ModelProto, folder: Path, samples: np.ndarray | None = None
) -> tuple[onnx.ModelProto, RepairedFile]:
    """Repair a model, with samples of its input x or without, and check the result."""
    onnx.save(proto, folder / "net.onnx")
    if samples is not None:
        np.savez(folder / "samples.npz", x=samples)
    given = None if samples is None else folder / "samples.npz"
    found = repair_file(folder / "net.onnx", folder / "repaired.onnx", given)
    result = onnx.load(folder / "repaired.onnx")
    onnx.checker.check_model(result, full_check=True)
    return result, found


def frozen_network(opset: int = 17, **fields: np.ndarray) -> onnx.ModelProto:
    """Make x -> Conv -> one -> Relu -> two -> y, both BatchNormalization nodes in inference mode."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
        batchnorm("h", "a", "one"),
        helper.make_node("Relu", ["a"], ["r"]),
        batchnorm("r", "y", "two"),
    ]
    constants = {"w": weight(3, 2, 1, 1)}
    for name in ("one", "two"):
        constants |= statistics(np.random.default_rng(2), 3, name, dtype=np.float32)
    return model(nodes, {"x": ["n", 2, 4, 4]}, ["y"], constants | fields, opset, np.float32)


def in_training_mode(proto: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """Return a copy in which some BatchNormalization nodes are in training mode, as their opset says it."""
    changed = onnx.ModelProto.FromString(proto.SerializeToString())
    opset = changed.opset_import[0].version
    for node in changed.graph.node:
        if node.name in names:
            if opset >= 14:
                set_training_mode(node)
                del node.output[1:]
                node.output.extend([f"{node.name}.new_mean", f"{node.name}.new_var"])
            else:
                node.output.extend(f"{node.name}.{role}" for role in ("m", "v", "saved_m", "saved_v"))
    return changed


@pytest.mark.parametrize("opset", [7, 9, 13, 14, 15, 17])
@pytest.mark.parametrize("names", [("one",), ("two",), ("one", "two")])
def test_training_mode_becomes_inference_by_the_stored_statistics(
    tmp_path: Path, opset: int, names: tuple[str, ...]
) -> None:
    proto = frozen_network(opset)

    result, found = repaired(in_training_mode(proto, *names), tmp_path)

    assert [(node.node, node.cause, node.statistics) for node in found.nodes] == [
        (name, "training mode", "stored") for name in names
    ]
    (warning,) = found.warnings
    assert all(repr(name) in warning for name in names)
    assert "The outputs change" in warning
    assert [list(node.output) for node in result.graph.node] == [list(node.output) for node in proto.graph.node]
    (wanted,), (got,) = run32(proto, {"x": rows(5)}), run32(result, {"x": rows(5)})
    np.testing.assert_array_equal(wanted, got)
    assert fold_file(tmp_path / "repaired.onnx", tmp_path / "folded.onnx").report.batchnorm_after == 1


@pytest.mark.parametrize("opset", [9, 17])
def test_samples_replace_the_statistics_of_what_was_in_training_mode_alone(tmp_path: Path, opset: int) -> None:
    proto = frozen_network(opset)

    result, found = repaired(in_training_mode(proto, "two"), tmp_path, rows())

    assert [(node.node, node.statistics) for node in found.nodes] == [("two", "samples")]
    assert found.warnings == ()
    (r,) = run32(with_output(proto, "r"), {"x": rows()})
    before, after = constants_of(proto), constants_of(result)
    np.testing.assert_allclose(after["two.mean"], r.mean((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(after["two.var"], r.var((0, 2, 3)), rtol=1e-4, atol=1e-12)
    for name in ("one.mean", "one.var", "one.scale", "two.scale", "two.shift"):
        np.testing.assert_array_equal(after[name], before[name])


def test_repaired_layers_are_sampled_one_after_the_other(tmp_path: Path) -> None:
    """The second one sees what the first gives by its new statistics: as in training mode, on all samples at once."""
    proto = in_training_mode(frozen_network(), "one", "two")

    result, _ = repaired(proto, tmp_path, rows())

    (wanted,) = trained_output(proto, rows())
    (got,) = run32(result, {"x": rows()})
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)


def trained_output(proto: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    """Return what `in_training_mode(frozen_network())` gives for one batch, in float64."""
    constants = {name: array.astype(np.float64) for name, array in constants_of(proto).items()}
    value = np.einsum("oi,nihw->nohw", constants["w"][:, :, 0, 0], x.astype(np.float64))
    for name in ("one", "two"):
        mean, var = value.mean((0, 2, 3), keepdims=True), value.var((0, 2, 3), keepdims=True)
        scale, shift = (constants[f"{name}.{role}"].reshape(1, -1, 1, 1) for role in ("scale", "shift"))
        value = (value - mean) / np.sqrt(var + 1e-5) * scale + shift
        value = np.maximum(value, 0) if name == "one" else value
    return [value]


UNSET = {"one.mean": np.zeros(3, np.float32), "one.var": np.ones(3, np.float32)}


@pytest.mark.parametrize("opset", [11, 17])
def test_statistics_that_were_never_set_need_samples(tmp_path: Path, opset: int) -> None:
    proto = in_training_mode(frozen_network(opset, **UNSET), "one")

    with pytest.raises(RepairError, match=r"'one' is in training mode, with statistics that were never set"):
        repaired(proto, tmp_path)
    assert not (tmp_path / "repaired.onnx").exists()

    result, found = repaired(proto, tmp_path, rows())
    assert [node.statistics for node in found.nodes] == ["samples"]
    (h,) = run32(with_output(frozen_network(opset), "h"), {"x": rows()})
    (mean,) = (constants_of(result)[name] for name in [result.graph.node[1].input[3]])
    assert mean.shape == (3,)
    assert h.shape[1] == 3


def batch_statistics(source: str, name: str, opset: int) -> list[NodeProto]:
    """Make a BatchNormalization as torch's exporter writes one without running statistics: by ReduceMean."""
    axes: dict[str, Any] = {} if opset >= 18 else {"axes": [0, 2, 3]}
    inputs = ["axes"] if opset >= 18 else []
    parameters = [f"{name}.scale", f"{name}.shift", f"{name}.mean", f"{name}.var"]
    return [
        helper.make_node("ReduceMean", [source, *inputs], [f"{name}.mean"], keepdims=0, **axes),
        helper.make_node("ReduceMean", [source, *inputs], [f"{name}.kept"], keepdims=1, **axes),
        helper.make_node("Sub", [source, f"{name}.kept"], [f"{name}.centred"]),
        helper.make_node("Mul", [f"{name}.centred", f"{name}.centred"], [f"{name}.squares"]),
        helper.make_node("ReduceMean", [f"{name}.squares", *inputs], [f"{name}.var"], keepdims=0, **axes),
        helper.make_node("BatchNormalization", [source, *parameters], [f"{name}.out"], name=name),
    ]


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_statistics_computed_in_the_graph_become_constants(tmp_path: Path, opset: int) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
        *batch_statistics("h", "one", opset),
        helper.make_node("Relu", ["one.out"], ["r"]),
        *batch_statistics("r", "two", opset),
        helper.make_node("Identity", ["two.out"], ["y"]),
    ]
    constants: dict[str, np.ndarray] = {"w": weight(3, 2, 1, 1)} | {
        f"{name}.{role}": RNG.uniform(0.5, 1.5, 3).astype(np.float32)
        for name in ("one", "two")
        for role in ("scale", "shift")
    }
    if opset >= 18:
        constants["axes"] = np.array([0, 2, 3])
    proto = model(nodes, {"x": ["n", 2, 4, 4]}, ["y"], constants, opset, np.float32)

    with pytest.raises(RepairError, match=r"'one' computes its statistics from the batch \(and 1 more\)"):
        repaired(proto, tmp_path)
    result, found = repaired(proto, tmp_path, rows())

    assert [(node.node, node.cause) for node in found.nodes] == [
        ("one", "statistics computed from the batch"),
        ("two", "statistics computed from the batch"),
    ]
    kept = ["Conv", "BatchNormalization", "Relu", "BatchNormalization"]
    assert [op for op in operators(result) if op != "Identity"] == kept
    (wanted,), (got,) = run32(proto, {"x": rows()}), run32(result, {"x": rows()})
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)
    assert not np.allclose(run32(proto, {"x": rows()[:2]})[0], run32(result, {"x": rows()[:2]})[0], atol=1e-2)


def test_statistics_given_by_another_input_stay(tmp_path: Path) -> None:
    """Conditional normalisation: the mean is an input of its own, not one of the batch."""
    node = helper.make_node("BatchNormalization", ["x", "bn.scale", "bn.shift", "m", "bn.var"], ["y"], name="bn")
    constants = statistics(RNG, 2, dtype=np.float32)
    del constants["bn.mean"]
    proto = model([node], {"x": ["n", 2, 4, 4], "m": [2]}, ["y"], constants, dtype=np.float32)
    result, found = repaired(proto, tmp_path)
    assert found.nodes == ()
    assert list(result.graph.node[0].input) == list(node.input)


def test_file_without_training_mode_is_written_as_it_is(tmp_path: Path) -> None:
    proto = small_convnet(np.random.default_rng(0))
    result, found = repaired(proto, tmp_path)
    assert (found.nodes, found.warnings) == ((), ())
    assert operators(result) == operators(proto)


@pytest.mark.parametrize("opset", [9, 17])
def test_updated_statistics_are_read_as_stored_or_leave_the_outputs(tmp_path: Path, opset: int) -> None:
    proto = in_training_mode(frozen_network(opset), "one")
    mean = proto.graph.node[1].output[1]
    proto.graph.node.append(helper.make_node("Neg", [mean], ["negated"]))
    var = proto.graph.node[1].output[2]
    for name in ("negated", var):
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]))

    result, found = repaired(proto, tmp_path)

    assert found.removed_outputs == (var,)
    assert repr(var) in found.warnings[1]
    assert [value.name for value in result.graph.output] == ["y", "negated"]
    _, negated = run32(result, {"x": rows(2)})
    np.testing.assert_array_equal(-negated, constants_of(proto)["one.mean"])


def test_statistics_of_the_batch_that_are_read_are_an_error(tmp_path: Path) -> None:
    proto = in_training_mode(frozen_network(9), "one")
    proto.graph.output.append(helper.make_tensor_value_info("one.saved_m", TensorProto.FLOAT, [3]))
    with pytest.raises(RepairError, match="gives out the statistics of the batch, 'one.saved_m'"):
        repaired(proto, tmp_path)
    assert not (tmp_path / "repaired.onnx").exists()


@pytest.mark.parametrize("is_active", [True, False])
def test_dropout_in_training_mode_is_warned_of(tmp_path: Path, is_active: bool) -> None:
    nodes = [batchnorm("x", "b"), helper.make_node("Dropout", ["b", "ratio", "mode"], ["y"], name="drop")]
    constants = statistics(RNG, 2, dtype=np.float32) | {"ratio": np.float32(0.5), "mode": np.array(is_active)}
    _, found = repaired(model(nodes, {"x": ["n", 2, 4, 4]}, ["y"], constants, dtype=np.float32), tmp_path)
    assert ["'drop'" in warning for warning in found.warnings] == [True] * is_active


def test_too_few_or_unstable_samples_write_nothing(tmp_path: Path) -> None:
    proto = in_training_mode(frozen_network(), "one")
    with pytest.raises(SampleCountError):
        repaired(proto, tmp_path, rows(31))
    moving = rows()
    moving[COUNT // 2 :] += 20
    with pytest.raises(UnstableSamplesError):
        repaired(proto, tmp_path, moving)
    assert not (tmp_path / "repaired.onnx").exists()


def test_batchnorm_of_a_subgraph_is_set_to_inference_mode(tmp_path: Path) -> None:
    out = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("o", "p")]
    inner = batchnorm("x", "o")
    set_training_mode(inner)
    branches = {
        "then_branch": helper.make_graph([inner], "then", [], out[:1]),
        "else_branch": helper.make_graph([helper.make_node("Identity", ["x"], ["p"])], "else", [], out[1:]),
    }
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["which"]),
        helper.make_node("If", ["which"], ["y"], **branches),
    ]
    constants = statistics(RNG, 2, dtype=np.float32) | {"zero": np.float32(0)}
    proto = model(nodes, {"x": ["n", 2, 4, 4]}, ["y"], constants, dtype=np.float32)
    result, found = repaired(proto, tmp_path)
    assert [node.node for node in found.nodes] == ["bn"]
    attributes = {each.name: each.g for node in result.graph.node for each in node.attribute}
    assert [len(node.output) for node in attributes["then_branch"].node] == [1]
    with pytest.raises(NotAdaptableError, match="stands in the subgraph of a control flow node"):
        repaired(proto, tmp_path, rows())

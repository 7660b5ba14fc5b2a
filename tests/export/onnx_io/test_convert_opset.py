"""Files below opset 7: converted as they are read, folded, and compared with what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from normfold.export.errors import ModelFileError, TrainingModeError
from normfold.export.files.fold_file import FoldedFile, fold_file
from normfold.export.fold.report import Outcome
from normfold.export.onnx_io.model_file import load_model, save_model
from normfold.export.repair.modes import Cause
from normfold.export.repair.repair import repair_file
from tests.support.onnx_models import batchnorm, operators, run32, statistics
from tests.support.onnx_models import save_model as save_proto

node = helper.make_node


def old_model(nodes: list[NodeProto], opset: int, rows: int | str = "n", **constants: Any) -> onnx.ModelProto:
    """Make a model from x (n, 2, 6, 6) to y, whose initializers are inputs, as files of IR version 3 have to be."""
    arrays = {name: np.asarray(array, np.float32) for name, array in constants.items()}
    graph = helper.make_graph(
        nodes,
        "old",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 2, 6, 6]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in arrays.items()),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="caffe")
    proto.ir_version = 3
    return proto


def parameters(rng: np.random.Generator) -> dict[str, Any]:
    return {"w": rng.normal(size=(3, 2, 3, 3))} | statistics(rng, 3)


def fold_old(proto: onnx.ModelProto, folder: Path) -> tuple[FoldedFile, onnx.ModelProto]:
    result = fold_file(save_proto(proto, folder), folder / "folded.onnx")
    return result, onnx.load(folder / "folded.onnx")


def test_opset_6_is_folded_and_compared_with_the_source(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "w"], ["h"]), batchnorm("h", "n", is_test=1), node("Relu", ["n"], ["y"])]

    result, written = fold_old(old_model(nodes, 6, **parameters(np.random.default_rng(0))), tmp_path)

    assert operators(written) == ["Conv", "Relu"]
    assert written.opset_import[0].version == 7
    assert written.producer_name == "caffe"
    assert [value.name for value in written.graph.input] == ["x"]
    assert written.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"
    assert result.report.warnings == [
        "The file has opset 6: onnx's version converter converted it to 7.",
        "The converted file gives what the source of opset 6 gives, by onnx's reference evaluator.",
    ]


def test_opset_5_that_nothing_runs_is_equal_to_the_converted_file(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["h"]),
        batchnorm("h", "n", is_test=1, consumed_inputs=[0, 0, 0, 1, 1]),
        node("Relu", ["n"], ["y"], consumed_inputs=[0]),
    ]

    result, written = fold_old(old_model(nodes, 5, **parameters(np.random.default_rng(1))), tmp_path)

    assert operators(written) == ["Conv", "Relu"]
    assert "equal to the converted file, not to the source" in result.report.warnings[1]


@pytest.mark.parametrize("rows", ["n", 2])
def test_operands_that_broadcast_from_an_axis_on_are_converted(tmp_path: Path, rows: int | str) -> None:
    """As caffe's Scale: Mul and Add by a vector along axis 1."""
    rng = np.random.default_rng(2)
    nodes = [
        node("Conv", ["x", "w"], ["h"]),
        batchnorm("h", "n", is_test=1),
        node("Mul", ["n", "gain"], ["m"], broadcast=1, axis=1),
        node("Add", ["m", "offset"], ["a"], broadcast=1, axis=1),
        node("PRelu", ["a", "slope"], ["y"]),
    ]
    vectors = {name: rng.normal(size=3) for name in ("gain", "offset", "slope")}
    constants = parameters(rng) | vectors

    _, written = fold_old(old_model(nodes, 6, rows, **constants), tmp_path)

    assert operators(written) == ["Conv", "PRelu"]
    save_model(load_model(tmp_path / "net.onnx"), tmp_path / "converted.onnx")
    x = rng.normal(size=(2, 2, 6, 6)).astype(np.float32)
    (got,) = run32(written, {"x": x})
    plain = old_model(nodes[:2], 6, rows, **constants)
    plain.graph.output[0].name = "n"
    save_model(load_model(save_proto(plain, tmp_path)), tmp_path / "plain.onnx")
    (normal,) = run32(onnx.load(tmp_path / "plain.onnx"), {"x": x})
    gain, offset, slope = (array.reshape(1, 3, 1, 1) for array in vectors.values())
    wanted = normal * gain + offset
    wanted = np.where(wanted < 0, slope * wanted, wanted)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_batchnorm_that_trains_is_refused(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "w"], ["h"]), batchnorm("h", "y", is_test=0)]

    with pytest.raises(TrainingModeError, match="is in training mode"):
        fold_old(old_model(nodes, 6, **parameters(np.random.default_rng(0))), tmp_path)


def test_conversion_that_changes_outputs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [node("Conv", ["x", "w"], ["h"]), batchnorm("h", "n", is_test=1), node("Relu", ["n"], ["y"])]
    proto = old_model(nodes, 6, **parameters(np.random.default_rng(4)))

    def wrong(source: onnx.ModelProto, opset: int) -> onnx.ModelProto:
        changed = onnx.ModelProto()
        changed.CopyFrom(source)
        changed.opset_import[0].version = opset
        changed.graph.node[1].attribute[0].CopyFrom(helper.make_attribute("epsilon", 0.5))
        return changed

    monkeypatch.setattr("normfold.export.onnx_io.model_file.converted", wrong)
    with pytest.raises(ModelFileError, match="gives another output 'y' when it is converted"):
        fold_old(proto, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("opset", range(1, 6))
def test_opset_without_shapes_behind_a_batchnorm_is_folded(opset: int, tmp_path: Path) -> None:
    """From opset 6 to 7 the converter asks for the shape of a Gemm's input."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", ["x", "w"], ["h"]),
        batchnorm("h", "n", is_test=1, consumed_inputs=[0, 0, 0, 1, 1]),
        node("Relu", ["n"], ["r"], consumed_inputs=[0]),
        node("Mul", ["r", "factors"], ["m"], broadcast=1, axis=1),
        node("Flatten", ["m"], ["f"]),
        node("Gemm", ["f", "v", "b"], ["y"], broadcast=1),
    ]
    constants = {**parameters(rng), "factors": np.ones(3), "v": rng.normal(size=(48, 4)), "b": rng.normal(size=4)}

    result, written = fold_old(old_model(nodes, opset, **constants), tmp_path)

    assert result.verification is not None
    assert operators(written) == ["Conv", "Relu", "Flatten", "Gemm"]


@pytest.mark.slow
def test_batchnorm_in_training_mode_stays_in_it_and_is_repaired(tmp_path: Path) -> None:
    """Below opset 7 a BatchNormalization is in training mode unless it says otherwise."""
    nodes = [
        node("Conv", ["x", "w"], ["h"]),
        batchnorm("h", "n", is_test=1),
        node("Relu", ["n"], ["r"]),
        batchnorm("r", "y", "training"),
    ]
    rng = np.random.default_rng(0)
    path = save_proto(old_model(nodes, 6, **parameters(rng), **statistics(rng, 3, "training")), tmp_path)

    report = repair_file(path, tmp_path / "repaired.onnx")

    assert [(each.node, each.cause) for each in report.nodes] == [("training", Cause.TRAINING_MODE)]
    (old,) = [each for each in load_model(path).graph if each.name == "training"]
    assert len(old.outputs) == 5
    result = fold_file(tmp_path / "repaired.onnx", tmp_path / "folded.onnx")
    assert [entry.outcome for entry in result.report.entries] == [Outcome.FOLDED_BACK, Outcome.KEPT]

"""Files that ONNX Runtime loads, and onnx's checker does not take as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from normfold.export.errors import ModelFileError
from normfold.export.files.audit_file import audit_onnx
from normfold.export.files.fold_file import FoldedFile, fold_file
from normfold.export.onnx_io.model_file import load_model
from normfold.export.verify.verify import verify
from tests.support.onnx_models import batchnorm, model, operators, save_model, statistics

node = helper.make_node


def conv_model(opset: int = 17, **changes: Any) -> onnx.ModelProto:
    """Make x -> Conv -> BatchNormalization -> Relu -> y, float32."""
    rng = np.random.default_rng(0)
    nodes = [node("Conv", ["x", "w"], ["h"], name="conv"), batchnorm("h", "n", **changes), node("Relu", ["n"], ["y"])]
    constants = {"w": rng.normal(size=(3, 2, 3, 3)).astype(np.float32)} | statistics(rng, 3, dtype=np.float32)
    return model(nodes, {"x": ["n", 2, 6, 6]}, ["y"], constants, opset=opset, dtype=np.float32)


def with_initializers_as_inputs(proto: onnx.ModelProto, ir_version: int) -> onnx.ModelProto:
    proto.ir_version = ir_version
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return proto


def folded_file(proto: onnx.ModelProto, folder: Path, **options: Any) -> tuple[FoldedFile, onnx.ModelProto]:
    result = fold_file(save_model(proto, folder), folder / "folded.onnx", **options)
    return result, onnx.load(folder / "folded.onnx")


@pytest.mark.parametrize("opset", [7, 8, 9, 17])
def test_initializers_below_ir_version_4_are_constants(tmp_path: Path, opset: int) -> None:
    proto = with_initializers_as_inputs(conv_model(opset), 3)

    result, written = folded_file(proto, tmp_path)

    assert result.verification is not None
    assert operators(written) == ["Conv", "Relu"]
    assert [value.name for value in written.graph.input] == ["x"]
    assert written.ir_version == 4
    assert len(audit_onnx(tmp_path / "net.onnx").layers) == 1
    assert verify(tmp_path / "net.onnx", tmp_path / "folded.onnx").passes


def test_input_with_a_default_may_be_overridden_unless_it_is_frozen(tmp_path: Path) -> None:
    proto = with_initializers_as_inputs(conv_model(), 8)

    kept, written = folded_file(proto, tmp_path)
    assert "`freeze_inputs` makes its default a constant" in (kept.report.entries[0].reason or "")
    assert len(written.graph.input) == 6

    frozen, written = folded_file(proto, tmp_path, frozen=True)
    assert frozen.report.batchnorm_after == 0
    assert [value.name for value in written.graph.input] == ["x"]
    assert operators(written) == ["Conv", "Relu"]


def test_negative_size_is_free(tmp_path: Path) -> None:
    proto = conv_model()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
        value.type.tensor_type.shape.dim[3].dim_value = -1

    result, written = folded_file(proto, tmp_path)

    assert result.report.batchnorm_after == 0
    assert not written.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value")


def test_graph_without_a_name_gets_one(tmp_path: Path) -> None:
    proto = conv_model()
    proto.graph.name = ""

    result, written = folded_file(proto, tmp_path)

    assert result.report.batchnorm_after == 0
    assert written.graph.name


def test_output_without_a_shape_gets_the_inferred_one(tmp_path: Path) -> None:
    proto = conv_model()
    proto.graph.output[0].ClearField("type")

    result, written = folded_file(proto, tmp_path)

    assert result.report.batchnorm_after == 0
    assert len(written.graph.output[0].type.tensor_type.shape.dim) == 4


@pytest.mark.parametrize("rank", [1, 2])
def test_sparse_initializer_becomes_dense(tmp_path: Path, rank: int) -> None:
    proto = conv_model()
    indices = np.array([0, 2], np.int64).reshape((2,) if rank == 1 else (2, 1))
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(2, np.float32), "bias"), numpy_helper.from_array(indices, "places"), [3]
    )
    proto.graph.sparse_initializer.append(sparse)
    proto.graph.node[0].input.append("bias")

    result, written = folded_file(proto, tmp_path)

    assert result.verification is not None
    assert operators(written) == ["Conv", "Relu"]


def test_sparse_constant_becomes_dense(tmp_path: Path) -> None:
    proto = conv_model()
    (dense,) = [tensor for tensor in proto.graph.initializer if tensor.name == "w"]
    array = numpy_helper.to_array(dense)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(array.reshape(-1), "values"),
        numpy_helper.from_array(np.arange(array.size), "places"),
        array.shape,
    )
    proto.graph.initializer.remove(dense)
    proto.graph.node.insert(0, node("Constant", [], ["w"], sparse_value=sparse))

    result, written = folded_file(proto, tmp_path)

    assert result.verification is not None
    assert operators(written) == ["Conv", "Relu"]


def test_scalar_input_is_run(tmp_path: Path) -> None:
    proto = model([node("Mul", ["x", "two"], ["y"])], {"x": []}, ["y"], {"two": np.float32(2)}, dtype=np.float32)

    result, _ = folded_file(proto, tmp_path)

    assert result.verification is not None
    assert result.verification.passes


def test_operator_that_only_the_checker_objects_to_is_taken(tmp_path: Path) -> None:
    """GroupNormalization of opset 18 is deprecated for onnx's checker; ONNX Runtime runs it."""
    proto = conv_model(opset=17)
    proto.opset_import[0].version = 18
    proto.graph.node[2].CopyFrom(node("GroupNormalization", ["n", "gain", "offset"], ["y"], num_groups=1))
    for name in ("gain", "offset"):
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), name))
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(proto)

    result, written = folded_file(proto, tmp_path)

    assert result.report.batchnorm_after == 0
    assert operators(written) == ["Conv", "GroupNormalization"]


def test_model_that_nothing_loads_is_refused_with_the_reason_of_onnx_runtime(tmp_path: Path) -> None:
    proto = conv_model()
    proto.graph.node[0].op_type = "Konv"

    with pytest.raises(ModelFileError, match=r"not a valid ONNX graph: .*ONNXRuntimeError.*Konv") as caught:
        load_model(save_model(proto, tmp_path))
    assert "\n" not in str(caught.value)


def test_model_that_only_the_checker_takes_is_refused_with_the_reason_of_onnx_runtime(tmp_path: Path) -> None:
    proto = conv_model()
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((3, 5, 3, 3), np.float32), "w"))
    del proto.graph.value_info[:]

    with pytest.raises(ModelFileError, match=r"ONNXRuntimeError") as caught:
        folded_file(proto, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "folded.onnx").exists()


@pytest.mark.parametrize(
    ("location", "says"), [("none.bin", "which is missing"), ("../w.bin", "outside its own folder")]
)
def test_tensor_of_a_constant_node_in_another_file_is_named(tmp_path: Path, location: str, says: str) -> None:
    proto = conv_model()
    weight = proto.graph.initializer[0]
    external = TensorProto(name="w", data_type=weight.data_type, dims=weight.dims, data_location=TensorProto.EXTERNAL)
    external.external_data.add(key="location", value=location)
    proto.graph.initializer.remove(weight)
    proto.graph.node.insert(0, node("Constant", [], ["w"], value=external))

    with pytest.raises(ModelFileError, match=f"the weight 'w'.*{says}"):
        load_model(save_model(proto, tmp_path))

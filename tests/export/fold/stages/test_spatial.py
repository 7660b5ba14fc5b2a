"""spatial=0, until opset 8: what it says is true only where the parameters are of every position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from normfold.export.files.audit_file import audit_onnx
from normfold.export.files.fold_file import fold_file
from normfold.export.fold.fold import fold
from normfold.export.verify.runner import Engine
from tests.support.onnx_models import assert_same, batchnorm, conv_batchnorm, folded, model, operators, statistics


def conv_model(opset: int = 8) -> onnx.ModelProto:
    """Make a Conv, and a BatchNormalization of rank 4 that says spatial=0 of one number for each channel."""
    nodes, constants = conv_batchnorm(np.random.default_rng(0), spatial=0)
    constants = {name: array.astype(np.float32) for name, array in constants.items()}
    return model(nodes, {"x": ["n", 2, 4, 4]}, ["y"], constants, opset=opset, dtype=np.float32)


def gemm_model(rng: np.random.Generator) -> onnx.ModelProto:
    """Make Gemm, BatchNormalization with spatial=0, as face recognition networks end."""
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="gemm"), batchnorm("h", "y", spatial=0)]
    constants: dict[str, Any] = {"w": rng.normal(size=(6, 4)), "b": np.zeros(4)} | statistics(rng, 4)
    return model(nodes, {"x": ["n", 6]}, ["y"], constants, opset=8)


def test_spatial_of_a_matrix_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    source = gemm_model(rng)

    result, report = folded(source)

    assert operators(result) == ["Gemm"]
    assert report.warnings == []
    assert_same(source, result, {"x": rng.normal(size=(3, 6))})


def test_spatial_of_channels_is_corrected_with_a_warning(tmp_path: Path) -> None:
    onnx.save(conv_model(), tmp_path / "a.onnx")

    result = fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx")

    assert operators(onnx.load(tmp_path / "b.onnx")) == ["Conv"]
    (warning,) = result.report.warnings
    assert "'bn' has spatial=0" in warning
    assert result.verification is not None
    assert result.verification.engine is Engine.REFERENCE
    assert [layer.name for layer in audit_onnx(tmp_path / "a.onnx").layers] == ["bn"]


def test_corrected_spatial_is_not_written_again() -> None:
    proto = model(
        [helper.make_node("Relu", ["x"], ["h"]), batchnorm("h", "y", spatial=0)],
        {"x": ["n", 3, 4, 4]},
        ["y"],
        statistics(np.random.default_rng(2), 3),
        opset=7,
    )

    result, report = folded(proto)

    assert report.batchnorm_after == 1
    assert "spatial" not in {attribute.name for attribute in result.graph.node[1].attribute}


@pytest.mark.parametrize(
    ("shape", "says"), [((3, 4, 4), "statistics for every position"), ((48,), "not known to be one number for each")]
)
def test_spatial_of_other_parameters_is_kept(shape: tuple[int, ...], says: str) -> None:
    nodes, constants = conv_batchnorm(np.random.default_rng(3), spatial=0)
    constants |= {f"bn.{field}": np.ones(shape) for field in ("scale", "shift", "mean", "var")}
    source = model(nodes, {"x": [1, 2, 4, 4]}, ["y"], constants, opset=8)

    report = fold(ir.from_proto(source))

    assert report.kept == {"not-spatial": 1}
    assert says in (report.entries[0].reason or "")

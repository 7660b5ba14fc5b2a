"""Planted faults of ONNX files, each found under its code, and sound files without findings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from normfold.contract.audit.findings import Finding, Severity
from normfold.export.errors import ModelFileError
from normfold.export.files.audit_file import audit_onnx
from tests.support import published_graphs
from tests.support.onnx_models import batchnorm, model, set_training_mode
from tests.support.published_graphs import published_graph


def sound(channels: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    fields = {"scale": rng.uniform(0.5, 1.5, channels), "shift": rng.normal(size=channels)}
    fields |= {"mean": rng.normal(size=channels), "var": rng.uniform(0.5, 2, channels)}
    return {f"bn.{field}": array.astype(np.float32) for field, array in fields.items()}


def written(tmp_path: Path, constants: dict[str, np.ndarray], opset: int = 17, **attributes: Any) -> Path:
    """Write x -> Conv -> BatchNormalization -> y."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"], name="conv"), batchnorm("h", "y", **attributes)]
    weight = {"w": np.ones((3, 2, 1, 1), np.float32)}
    path = tmp_path / "net.onnx"
    onnx.save(model(nodes, {"x": ["n", 2, 4, 4]}, ["y"], weight | constants, opset, np.float32), path)
    return path


def test_audit_of_a_sound_file_has_gains_and_no_findings(tmp_path: Path) -> None:
    constants = sound()
    audit = audit_onnx(written(tmp_path, constants))
    assert audit.findings == ()
    (layer,) = audit.layers
    assert (layer.name, layer.epsilon) == ("bn", float(np.float32(1e-5)))
    expected = constants["bn.scale"].astype(float) / np.sqrt(constants["bn.var"].astype(float) + layer.epsilon)
    np.testing.assert_allclose(layer.gain, expected, rtol=1e-12)
    assert audit.notes == ("The statistics were not compared with data: an ONNX file contains none.",)


@pytest.mark.parametrize(
    ("field", "values", "code", "severity"),
    [
        ("var", [0, 1, 1], "variance-near-zero", Severity.WARNING),
        ("var", [-1, 1, 1], "not-finite", Severity.ERROR),
        ("mean", [np.nan, 1, 1], "not-finite", Severity.ERROR),
        ("shift", [np.inf, 1, 1], "not-finite", Severity.ERROR),
        ("scale", [0, 1, 1], "dead-channels", Severity.INFO),
        ("scale", [0, 0, 1], "dead-channels", Severity.WARNING),
    ],
)
def test_a_planted_fault_is_found(
    tmp_path: Path, field: str, values: list[float], code: str, severity: Severity
) -> None:
    path = written(tmp_path, sound() | {f"bn.{field}": np.array(values, np.float32)})
    (found,) = audit_onnx(path).findings
    assert (found.code, found.layer, found.severity) == (code, "bn", severity)


def test_statistics_that_were_never_set_are_found(tmp_path: Path) -> None:
    unset = {"bn.mean": np.zeros(3, np.float32), "bn.var": np.ones(3, np.float32)}
    (found,) = audit_onnx(written(tmp_path, sound() | unset)).findings
    assert (found.code, found.severity) == ("statistics-unset", Severity.ERROR)


@pytest.mark.parametrize(
    ("epsilon", "codes"), [(1e-5, []), (1e-3, []), (0.0, ["epsilon-unusual"]), (0.1, ["epsilon-unusual"])]
)
def test_an_unusual_epsilon_is_found(tmp_path: Path, epsilon: float, codes: list[str]) -> None:
    assert [found.code for found in audit_onnx(written(tmp_path, sound(), epsilon=epsilon)).findings] == codes


def training(path: Path) -> list[tuple[str, str | None, Severity]]:
    def short(found: Finding) -> tuple[str, str | None, Severity]:
        return found.code, found.layer, found.severity

    return [short(found) for found in audit_onnx(path).findings]


def test_a_node_in_training_mode_is_found_by_its_attribute(tmp_path: Path) -> None:
    path = written(tmp_path, sound())
    proto = onnx.load(path)
    set_training_mode(proto.graph.node[1])
    onnx.save(proto, path)
    assert training(path) == [("train-mode", "bn", Severity.ERROR)]
    (finding,) = [found for found in audit_onnx(path).findings if found.code == "train-mode"]
    assert finding.advice.endswith("or run `normfold repair` on the file.")


def test_an_old_node_in_training_mode_is_found_by_its_outputs(tmp_path: Path) -> None:
    path = written(tmp_path, sound(), opset=13)
    proto = onnx.load(path)
    proto.graph.node[1].output.extend(["m", "v", "sm", "sv"])
    onnx.save(proto, path)
    assert training(path) == [("train-mode", "bn", Severity.ERROR)]


@pytest.mark.parametrize("training_mode", [True, False])
def test_a_dropout_that_drops_is_found(tmp_path: Path, training_mode: bool) -> None:
    nodes = [batchnorm("x", "h"), helper.make_node("Dropout", ["h", "ratio", "mode"], ["y"], name="drop")]
    constants = sound() | {"ratio": np.array(0.5, np.float32), "mode": np.array(training_mode)}
    path = tmp_path / "net.onnx"
    onnx.save(model(nodes, {"x": ["n", 3, 4, 4]}, ["y"], constants, dtype=np.float32), path)
    assert training(path) == [("train-mode", "drop", Severity.ERROR)] * training_mode


def test_parameters_that_are_computed_are_read_and_those_of_the_caller_are_not(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["bn.var"]), batchnorm("x", "y")]
    parts = {"a": np.full(3, 0.25, np.float32), "b": np.full(3, 0.5, np.float32)}
    constants = {name: array for name, array in (sound() | parts).items() if name != "bn.var"}
    path = tmp_path / "net.onnx"
    onnx.save(model(nodes, {"x": ["n", 3, 4, 4]}, ["y"], constants, dtype=np.float32), path)
    audit = audit_onnx(path)
    assert audit.findings == ()
    np.testing.assert_array_equal(audit.layers[0].running_var, 0.75)

    path = written(tmp_path, sound())
    proto = onnx.load(path)
    proto.graph.input.append(helper.make_tensor_value_info("bn.mean", onnx.TensorProto.FLOAT, [3]))
    onnx.save(proto, path)
    audit = audit_onnx(path)
    assert audit.layers == ()
    assert [(found.code, found.severity) for found in audit.findings] == [("not-readable", Severity.INFO)]
    assert "its running_mean may be overridden by the caller" in audit.findings[0].measurement


def test_two_nodes_of_one_name_are_two_layers(tmp_path: Path) -> None:
    nodes = [batchnorm("x", "h"), batchnorm("h", "y")]
    path = tmp_path / "net.onnx"
    onnx.save(model(nodes, {"x": ["n", 3, 4, 4]}, ["y"], sound(), dtype=np.float32), path)
    assert [layer.name for layer in audit_onnx(path).layers] == ["bn", "bn#2"]


def test_file_that_is_no_model_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        audit_onnx(tmp_path / "none.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", published_graphs.NAMES)
def test_audit_of_published_graphs_has_no_findings(name: str, tmp_path: Path) -> None:
    onnx.save(published_graph(name), tmp_path / "net.onnx")
    audit = audit_onnx(tmp_path / "net.onnx")
    assert audit.findings == ()
    assert audit.layers

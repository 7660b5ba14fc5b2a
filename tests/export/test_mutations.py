"""Wrong folds, planted one at a time: verification catches every one."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from normfold.export.errors import VerificationError
from normfold.export.files.fold_file import fold_file
from normfold.export.fold.operators import table
from tests.support.fold.faults import FAULTS, FAULTS_OF_LAYERS, layers, network
from tests.support.fold.passed_faults import PASSED_FAULTS, passed_network

pytestmark = pytest.mark.slow  # together: each fault folds and verifies a network


def test_each_module_of_operators_has_a_planted_fault() -> None:
    planted = {fault.operator for fault in (*FAULTS.values(), *FAULTS_OF_LAYERS.values())} - {""}
    planted |= {fault.target.split(".")[0] for fault in PASSED_FAULTS.values()}

    families = list(table.OPERATORS.values())
    assert planted == {name for name, module in vars(table).items() if module in families}


@pytest.mark.slow
def test_network_without_a_fault_folds_and_passes(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "a.onnx")

    report = fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx").report

    assert (report.batchnorm_after, report.batchnorm_made) == (0, 1)
    assert {entry.outcome.value for entry in report.entries} == {"folded back", "folded forward", "merged"}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = network()
    del source.graph.node[1].attribute[:]
    onnx.save(source, tmp_path / "a.onnx")
    FAULTS[name].plant(monkeypatch)

    with pytest.raises(VerificationError):
        fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx")

    assert not (tmp_path / "b.onnx").exists()
    assert numpy_helper.to_array(onnx.load(tmp_path / "a.onnx").graph.initializer[0]).any()


def test_layers_without_a_fault_fold_and_pass(tmp_path: Path) -> None:
    onnx.save(layers(), tmp_path / "a.onnx")

    report = fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx").report

    assert [entry.outcome.value for entry in report.entries].count("kept") == 1


@pytest.mark.parametrize("name", FAULTS_OF_LAYERS)
def test_a_planted_fault_of_a_layer_is_caught(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(layers(), tmp_path / "a.onnx")
    FAULTS_OF_LAYERS[name].plant(monkeypatch)

    with pytest.raises(VerificationError):
        fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx")

    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.parametrize("name", PASSED_FAULTS)
def test_a_planted_fault_of_an_operator_that_an_affine_passes_is_caught(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = PASSED_FAULTS[name]
    onnx.save(passed_network(fault), tmp_path / "a.onnx")
    assert fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx").report.batchnorm_before == 1
    (tmp_path / "b.onnx").unlink()
    monkeypatch.setattr(f"normfold.export.fold.operators.{fault.target}", fault.wrong)

    with pytest.raises(VerificationError):
        fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx")

    assert not (tmp_path / "b.onnx").exists()

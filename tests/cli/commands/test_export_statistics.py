"""What `normfold export` says and keeps of running statistics that it recomputes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from normfold import export
from normfold.contract.manifest import read_manifest
from normfold.export.bundle.recorded_ranges import read_recorded_ranges
from normfold.export.quantize.proof import time_ratio
from normfold.models.batchnorm.recalibrate_run import recalibrate_run
from normfold.models.training.checkpoint import load_checkpoint, save_checkpoint
from tests.support.command import RunCommand, in_one_line
from tests.support.onnx_models import small_convnet


@pytest.fixture
def run(normfold: RunCommand, tmp_path: Path) -> Path:
    """A run folder of a network for rows, in the current folder beside its data."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    np.savez("rows.npz", x=rng.normal(size=(120, 4)) + 3 * y[:, None], y=y)
    arguments = "--arch mlp --arg widths=[8] --data npz:rows.npz --batch-size 40 --epochs 10 --lr 0.05 --out run"
    code, _, err = normfold("train", *arguments.split())
    assert code == 0, err
    return tmp_path / "run"


@pytest.mark.slow
def test_recalibrated_statistics_are_reported_on_screen_in_json_and_in_the_manifest(
    normfold: RunCommand, run: Path, tmp_path: Path
) -> None:
    assert run.exists()
    code, out, err = normfold("export", "run")
    assert (code, err) == (0, "")
    assert "running statistics  mean moved by  variance changed by" in out
    assert "blocks.0.norm" in out
    assert "Recalibrated over 84 training rows: validation accuracy" in " ".join(out.split())

    record = json.loads(normfold("export", "run", "--json")[1])

    manifest = read_manifest(tmp_path / "model_repository/run/2/manifest.json")
    moved = manifest.card.running_statistics
    assert moved is not None
    assert record["running_statistics"] == moved.model_dump(mode="json")
    assert record["kept_statistics"] is None
    assert (manifest.schema_version, moved.samples, moved.taken) == (3, 84, True)
    assert [layer.layer for layer in moved.layers] == ["blocks.0.norm"]
    assert (moved.layers[0].mean_shift or 0) > 0
    assert manifest.card.metrics["test_accuracy"] == moved.accuracy_after["test"]


@pytest.mark.slow
def test_export_of_a_small_data_set_has_drift_thresholds_and_says_which_rows_they_come_from(
    normfold: RunCommand, run: Path
) -> None:
    assert run.exists()
    says = "thresholds come from 100 rows of the validation, test and training splits."

    code, out, _ = normfold("export", "run")
    monitor = json.loads(normfold("export", "run", "--json")[1])["monitor"]

    assert code == 0
    assert says in in_one_line(out)
    assert says in monitor["sentence"]
    assert monitor["calibration_rows"] == 100
    assert all(layer["threshold"] > 0 for layer in monitor["layers"])


@pytest.mark.slow
def test_the_bundle_computes_what_the_network_does_with_the_new_statistics(
    normfold: RunCommand, run: Path, tmp_path: Path
) -> None:
    assert normfold("export", "run", "--json")[0] == 0
    session = onnxruntime.InferenceSession(
        tmp_path / "model_repository/run/1/model.onnx", providers=["CPUExecutionProvider"]
    )
    x = torch.randn(20, 4)
    (served,) = session.run(None, {"input": x.numpy()})
    recomputed, trained = recalibrate_run(run).checkpoint.network, load_checkpoint(run).network
    np.testing.assert_allclose(served, recomputed(x).detach(), rtol=1e-4, atol=1e-5)
    assert np.abs(served - trained(x).detach().numpy()).max() > 1e-3


@pytest.mark.slow
def test_option_keeps_the_statistics_of_training(normfold: RunCommand, run: Path, tmp_path: Path) -> None:
    assert run.exists()
    code, out, err = normfold("export", "run", "--keep-statistics")
    assert (code, err) == (0, "")
    assert "Running statistics as they are: --keep-statistics." in out
    _, out, _ = normfold("export", "run", "--keep-statistics", "--json")
    assert json.loads(out)["kept_statistics"] == "--keep-statistics"
    assert export(run, "models", keep_statistics=True).kept_statistics == "`keep_statistics`"
    text = (tmp_path / "model_repository/run/1/manifest.json").read_text()
    assert "running_statistics" not in text
    assert json.loads(text)["schema_version"] == 1


@pytest.mark.slow
def test_ranges_of_the_training_data_calibrate_int8(
    normfold: RunCommand, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_ratio, "SECONDS", 0.0)
    assert normfold("export", "run")[0] == 0
    (tmp_path / "rows.npz").unlink()
    assert run.exists()

    code, out, _ = normfold("quantize", "run", "--force")
    assert code == 0
    assert "Calibrated with the data that export or adapt saw, 84 rows." in " ".join(out.split())
    recorded = read_recorded_ranges(tmp_path / "model_repository/run/2/statistics.safetensors")
    assert recorded is not None
    assert recorded.rows == 84
    code, out, _ = normfold("quantize", "run", "--force", "--ranges", "statistics")
    assert code == 0
    assert "Calibrated without data, by the BatchNormalization statistics." in " ".join(out.split())


@pytest.mark.slow
def test_export_in_int8_calibrates_with_the_training_data(
    normfold: RunCommand, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_ratio, "SECONDS", 0.0)
    assert run.exists()
    code, _, err = normfold("export", "run", "--precision", "int8", "--ranges", "samples")
    assert (code, "none are given: name them with --samples" in err) == (2, True)
    for ranges, found in ((None, "recorded"), ("statistics", "statistics")):
        option = [] if ranges is None else ["--ranges", ranges]
        code, out, err = normfold("export", "run", "--precision", "int8", "--force", "--max-drop", "0.2", *option)
        assert code == 0, err
        version = max((tmp_path / "model_repository/run").iterdir(), key=lambda path: int(path.name))
        precision = read_manifest(version / "manifest.json").precision
        assert precision is not None
        assert precision.recipe.ranges_from == found
        assert precision.range_rows == (None if found == "statistics" else 84)
        assert precision.proof.rows_from == "held_out"
        assert "rows of the validation and test data" in in_one_line(out)
        assert precision.proof.accuracy is not None


@pytest.mark.slow
def test_export_without_the_data_keeps_the_statistics_and_says_so_in_one_line(
    normfold: RunCommand, run: Path, tmp_path: Path
) -> None:
    assert run.exists()
    (tmp_path / "rows.npz").unlink()
    code, out, err = normfold("export", "run")
    assert (code, err) == (0, "")
    assert "Running statistics as they are: 'rows.npz' cannot be read: No such file or directory." in " ".join(
        out.split()
    )
    record = json.loads(normfold("export", "run", "--json")[1])
    assert record["running_statistics"] is None
    assert record["kept_statistics"].startswith("'rows.npz' cannot be read")


@pytest.mark.slow
def test_statistics_that_lower_accuracy_are_discarded_with_a_warning(
    normfold: RunCommand, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run.exists()
    monkeypatch.setattr("normfold.models.tasks.task.allowed_fall", lambda *_: -2.0)  # any accuracy is a fall then
    code, out, err = normfold("export", "run")
    assert code == 0
    assert err.startswith("warning: The running statistics are those of training: recalibration lowers validation")
    assert "Recalibrated, but not applied, over 84 training rows" in " ".join(out.split())
    record = json.loads(normfold("export", "run", "--json")[1])
    assert record["running_statistics"]["taken"] is False
    assert record["kept_statistics"] == "recalibration lowers validation accuracy"


@pytest.mark.slow
def test_card_of_the_user_gets_the_record(normfold: RunCommand, run: Path, tmp_path: Path) -> None:
    assert run.exists()
    Path("own.json").write_text('{"origin": "mine"}')
    assert normfold("export", "run", "--card", "own.json")[0] == 0
    card = read_manifest(tmp_path / "model_repository/run/1/manifest.json").card
    assert card.origin == "mine"
    assert card.running_statistics is not None


def test_export_of_an_onnx_file_takes_no_statistics_option(normfold: RunCommand, tmp_path: Path) -> None:
    onnx.save(small_convnet(np.random.default_rng(0)), tmp_path / "net.onnx")
    code, out, err = normfold("export", "net.onnx")
    assert (code, err) == (0, "")
    assert "Running statistics as they are: an ONNX file has no training data." in out
    code, _, err = normfold("export", "net.onnx", "--keep-statistics")
    assert code == 2
    assert err == "error: --keep-statistics goes with a run folder: nothing else comes with its training data.\n"


@pytest.mark.slow
def test_statistics_that_are_not_finite_are_replaced_by_recalibration(normfold: RunCommand, run: Path) -> None:
    trained = load_checkpoint(run)
    trained.network.get_submodule("blocks.0.norm").running_mean.fill_(float("nan"))  # type: ignore[union-attr,operator]
    save_checkpoint(run, trained.network, trained.config)
    code, out, err = normfold("export", "run", "--json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["running_statistics"]["layers"][0]["mean_shift"] is None
    assert record["fold"]["batchnorm_after"] == 0

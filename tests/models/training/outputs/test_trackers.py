from __future__ import annotations

import json
from pathlib import Path

import pytest

from normfold import train
from normfold.models.training.callback import TrainingCallback
from normfold.models.training.outputs.trackers import TrackingCallback


def test_every_call_reaches_the_other_callback_too() -> None:
    methods = {name for name in vars(TrainingCallback) if name.startswith("on_")}
    assert methods <= set(vars(TrackingCallback))


def check_logged(folder: Path, found: dict[str, list[float]]) -> None:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for name in ("train_loss", "validation_accuracy", "lr"):
        assert found[name] == pytest.approx([line[name] for line in lines], rel=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The running statistics differ")  # after six steps they do
def test_tensorboard_gets_the_metrics_of_every_epoch(tmp_path: Path, images: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed (make setup)"
    )
    lines: list[str] = []
    folder = tmp_path / "run"
    train(folder, arch="mlp", data=f"npz:{images}", epochs=2, batch_size=40, log="tensorboard", progress=lines.append)
    assert len(lines) == 2
    log = accumulator.EventAccumulator(str(folder / "tensorboard"))
    log.Reload()
    check_logged(folder, {name: [one.value for one in log.Scalars(name)] for name in log.Tags()["scalars"]})
    assert [one.step for one in log.Scalars("train_loss")] == [1, 2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_the_metrics_of_every_epoch(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed (the extra mlflow)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = tmp_path / "run"
    train(folder, arch="mlp", data=f"npz:{images}", epochs=2, batch_size=40, log="mlflow")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("normfold")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run"
    assert run.data.params["train.epochs"] == "2"
    values = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    check_logged(folder, {name: [one.value for one in history] for name, history in values.items()})

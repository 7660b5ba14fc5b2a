from __future__ import annotations

import json
from pathlib import Path

import pytest

from normfold import export
from normfold.models.errors import RunFolderError
from normfold.models.training.checkpoint import load_checkpoint
from normfold.models.training.outputs.kept_epochs import read_kept
from normfold.models.training.train import fit
from tests.support.training import MakeRun

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("on_cpu")]


def test_best_epochs_are_kept_with_a_list_and_each_can_be_exported(tmp_path: Path, make_run: MakeRun) -> None:
    folder = tmp_path / "run"
    config, dataset = make_run(epochs=6, lr=0.2, keep=2)
    result = fit(config, dataset, folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    ranked = sorted(lines, key=lambda line: (-line["validation_accuracy"], line["validation_loss"], line["epoch"]))
    kept = read_kept(folder)
    assert [one.epoch for one in kept] == [line["epoch"] for line in ranked[:2]]
    assert kept[0].epoch == result.best_epoch
    assert sorted(path.name for path in (folder / "epochs").iterdir()) == sorted(
        ["list.json", *(f"epoch-{one.epoch}" for one in kept)]
    )
    for one in kept:
        loaded = load_checkpoint(folder / one.folder).config
        assert (loaded.epoch, loaded.card.metrics["validation_accuracy"]) == (one.epoch, one.score)
    weights = [(folder / name / "weights.safetensors").read_bytes() for name in (kept[0].folder, ".", kept[1].folder)]
    assert weights[0] == weights[1] != weights[2]
    assert export(folder / kept[1].folder, tmp_path / "repository", name="second").path.is_dir()


def test_more_epochs_than_there_are_keeps_all(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run("mlp", epochs=2, keep=9)
    fit(config, dataset, tmp_path / "run")
    assert {one.epoch for one in read_kept(tmp_path / "run")} == {1, 2}


def test_run_without_the_option_keeps_none(tmp_path: Path, make_run: MakeRun) -> None:
    fit(*make_run("mlp", epochs=1), tmp_path / "run")
    assert read_kept(tmp_path / "run") == ()
    assert not (tmp_path / "run" / "epochs").exists()


def test_damaged_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "epochs").mkdir()
    (tmp_path / "epochs" / "list.json").write_text('{"kept": [{"epoch": "x"}]}')
    with pytest.raises(RunFolderError, match="damaged epochs/list.json"):
        read_kept(tmp_path)

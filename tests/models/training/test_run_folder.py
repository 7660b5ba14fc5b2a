from __future__ import annotations

import os
from pathlib import Path

import pytest

from normfold.models.errors import DivergedError
from normfold.models.training.callback import TrainingCallback
from normfold.models.training.checkpoint import load_checkpoint
from normfold.models.training.train import fit
from tests.support.training import MakeRun


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def fill_disk_at(monkeypatch: pytest.MonkeyPatch, write: int) -> None:
    """Let the disk be full from this write on, counted from 1."""
    writes = 0
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal writes
        writes += 1
        if writes >= write:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr("os.fsync", fsync)


@pytest.mark.slow
@pytest.mark.parametrize("write", [1, 2, 3, 4])  # metrics, state, weights, config
def test_failed_write_before_the_first_checkpoint_leaves_no_file(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    config, dataset = make_run("mlp", epochs=1)
    before = names(tmp_path)
    with monkeypatch.context() as patch:
        fill_disk_at(patch, write)
        with pytest.raises(OSError, match="No space left") as caught:
            fit(config, dataset, tmp_path / "new" / "run")
    assert Path(caught.value.filename).name in {
        "metrics.jsonl",
        "state.safetensors",
        "weights.safetensors",
        "config.json",
    }
    assert names(tmp_path) == before
    fit(config, dataset, tmp_path / "new" / "run")


@pytest.mark.slow
def test_failed_write_after_a_checkpoint_keeps_all_files(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, dataset = make_run("mlp", epochs=3)
    whole = fit(config, dataset, tmp_path / "whole")
    with monkeypatch.context() as patch:
        fill_disk_at(patch, 5)  # the state after the first epoch
        with pytest.raises(OSError, match="No space left"):
            fit(config, dataset, tmp_path / "run")
    load_checkpoint(tmp_path / "run")
    resumed = fit(config, dataset, tmp_path / "run", resume=True)
    assert (resumed.folder / "weights.safetensors").read_bytes() == (whole.folder / "weights.safetensors").read_bytes()


def test_failed_run_keeps_files_of_others(tmp_path: Path, make_run: MakeRun) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    config, dataset = make_run("mlp", optimizer="sgd", lr=1e30)
    with pytest.raises(DivergedError):
        fit(config, dataset, folder)
    assert names(folder) == {"notes.txt"}


class StopAtOnce(TrainingCallback):
    def on_step(self) -> None:
        raise KeyboardInterrupt


@pytest.mark.slow
def test_interrupted_run_keeps_its_state_if_resuming_fails(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, dataset = make_run("mlp", epochs=1)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(config, dataset, folder, callback=StopAtOnce())
    kept = names(folder)
    assert "resume/state.safetensors" in kept
    with monkeypatch.context() as patch:
        fill_disk_at(patch, 3)
        with pytest.raises(OSError, match="No space left"):
            fit(config, dataset, folder, resume=True)
    assert names(folder) == kept
    fit(config, dataset, folder, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("resume", [False, True])
def test_temporary_files_of_a_killed_run_are_removed_at_the_next_start(
    tmp_path: Path, make_run: MakeRun, resume: bool
) -> None:
    config, dataset = make_run("mlp", epochs=1)
    folder = tmp_path / "run"
    if resume:
        fit(config, dataset, folder)
    (folder / "resume").mkdir(parents=True, exist_ok=True)
    leftovers = [".weights.safetensors.7.tmp", ".curves.png.12.tmp", "resume/.state.safetensors.7.tmp"]
    others = [".weights.safetensors.tmp", ".other.7.tmp", "weights.safetensors.7.tmp"]
    for name in leftovers + others:
        (folder / name).write_bytes(b"half")
    fit(config, dataset, folder, resume=resume)
    assert not names(folder) & set(leftovers)
    assert names(folder) >= set(others)

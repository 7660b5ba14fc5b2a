"""A run that is resumed with another number of epochs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from normfold.models.errors import RunFolderError
from normfold.models.fine_tuning.more_epochs import ScheduleStart
from normfold.models.training.callback import TrainingCallback
from normfold.models.training.learning_rate.schedules import one_cycle
from normfold.models.training.resume import read_progress
from normfold.models.training.train import fit
from normfold.models.weight_files.safetensors_file import read_safetensors
from tests.support.training import MakeRun, StopAfter


class Notes(TrainingCallback):
    """Keeps what is lines at the start."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_note(self, sentence: str) -> None:
        self.lines.append(sentence)


def rate(start: ScheduleStart, epoch: int, index: int, epochs: int, steps: int = 50) -> float:
    return one_cycle(*start.position(epoch, index, steps, epochs), 0.5, 0.3)


def test_schedule_in_one_piece_counts_every_step() -> None:
    assert ScheduleStart().position(3, 4, 10, 7) == (24, 70)


@pytest.mark.parametrize(("done", "epochs", "more"), [(3, 5, 20), (3, 10, 11), (6, 10, 8), (1, 5, 20)])
def test_schedule_goes_on_where_it_is_and_ends_with_the_new_last_epoch(done: int, epochs: int, more: int) -> None:
    before = rate(ScheduleStart(), done + 1, 0, epochs)
    start = ScheduleStart().at(done, epochs)
    assert rate(start, done + 1, 0, more) == pytest.approx(before, rel=0.1)
    assert rate(start, more, 49, more) == pytest.approx(0.5 / 25 / 1e4, rel=1e-6)
    rates = [rate(start, epoch, index, more) for epoch in range(done + 1, more + 1) for index in range(50)]
    assert max(abs(one - other) for one, other in zip(rates[1:], rates, strict=False)) < 0.05


def test_schedule_stretched_twice_still_ends_with_the_last_epoch() -> None:
    start = ScheduleStart().at(2, 5).at(4, 8)
    assert (start.epoch, start.fraction) == (4, pytest.approx(0.4 + 0.6 * 2 / 6))
    assert rate(start, 12, 49, 12) == pytest.approx(0.5 / 25 / 1e4, rel=1e-6)


def test_schedule_that_has_ended_begins_anew_over_the_added_epochs() -> None:
    start = ScheduleStart().at(5, 5)
    assert start == ScheduleStart(epoch=5)
    for epoch in range(6, 21):
        assert rate(start, epoch, 7, 20) == rate(ScheduleStart(), epoch - 5, 7, 15)


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
def test_finished_run_resumed_with_more_epochs_trains_them_with_a_new_schedule(
    tmp_path: Path, make_run: MakeRun
) -> None:
    fit(*make_run(epochs=2), tmp_path / "run")
    notes = Notes()
    result = fit(*make_run(epochs=5), tmp_path / "run", resume=True, callback=notes)
    assert notes.lines == ["The learning rate begins a new schedule, from epoch 3 to 5."]
    assert result.epochs == 5
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[2]["lr"] > 100 * lines[1]["lr"]
    assert math.isclose(lines[4]["lr"], lines[1]["lr"], rel_tol=1e-6)
    assert read_progress(tmp_path / "run").config.train == result.config.train


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
def test_run_resumed_with_more_epochs_and_interrupted_again_ends_with_the_same_weights(
    tmp_path: Path, make_run: MakeRun
) -> None:
    for name in ("whole", "broken"):
        with pytest.raises(KeyboardInterrupt):
            fit(*make_run(epochs=4), tmp_path / name, callback=StopAfter(2))
    fit(*make_run(epochs=6), tmp_path / "whole", resume=True)
    with pytest.raises(KeyboardInterrupt):
        fit(*make_run(epochs=6), tmp_path / "broken", resume=True, callback=StopAfter(4))
    fit(*make_run(epochs=6), tmp_path / "broken", resume=True)
    states = [read_safetensors(tmp_path / name / "resume" / "state.safetensors") for name in ("whole", "broken")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
def test_run_out_of_patience_goes_on_with_more_epochs(tmp_path: Path, make_run: MakeRun) -> None:
    first = fit(*make_run(epochs=50, patience=2, lr=1e-9), tmp_path / "run")
    assert fit(*make_run(epochs=50, patience=2, lr=1e-9), tmp_path / "run", resume=True).epochs == first.epochs
    assert fit(*make_run(epochs=60, patience=3, lr=1e-9), tmp_path / "run", resume=True).epochs >= first.epochs + 3


@pytest.mark.slow
def test_run_is_not_resumed_with_fewer_epochs_than_are_done(tmp_path: Path, make_run: MakeRun) -> None:
    fit(*make_run(epochs=2), tmp_path / "run")
    with pytest.raises(RunFolderError, match="has 2 epochs done; to go on, give more `epochs`"):
        fit(*make_run(epochs=1), tmp_path / "run", resume=True)
    with pytest.raises(RunFolderError, match="was trained with seed=0, not 1"):
        fit(*make_run(epochs=3, seed=1), tmp_path / "run", resume=True)

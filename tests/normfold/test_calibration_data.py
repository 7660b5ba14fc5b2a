"""Rows of a run's data that an export takes: for drift thresholds, for ranges, and to compare networks on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from normfold._shared.calibration_data import run_data
from normfold._shared.sources.source import Source
from normfold.contract.source_card import SourceCard
from normfold.export.adapt import samples
from normfold.export.bundle import calibrate
from normfold.models.architectures.registry import Architecture
from normfold.models.data.data import DataConfig, load_dataset
from normfold.models.training.checkpoint import RunConfig, save_config

CLASSES, LIMIT = 6, 30


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder whose data lie class by class, as pictures in folders do: 20 validation rows of each class."""
    monkeypatch.setattr(calibrate, "MAX_ROWS", LIMIT)
    monkeypatch.setattr(calibrate, "MIN_ROWS", LIMIT)
    y = np.repeat(np.arange(CLASSES), 200)
    pictures = np.broadcast_to(10.0 * y[:, None, None, None], (len(y), 1, 3, 3))
    np.savez(tmp_path / "sorted.npz", x=pictures, y=y)
    data = DataConfig(source=f"npz:{tmp_path / 'sorted.npz'}")
    architecture = Architecture(name="convnet", input_shape=(1, 3, 3), classes=CLASSES)
    (tmp_path / "run").mkdir()
    dataset = load_dataset(data)
    card = SourceCard(labels=dataset.labels, preprocessing=dataset.preprocessing)
    save_config(tmp_path / "run", RunConfig(architecture=architecture, data=data, card=card))
    return tmp_path / "run"


@pytest.mark.parametrize("takes_pixels", [False, True])
def test_every_class_has_its_share(run: Path, takes_pixels: bool) -> None:
    found = run_data(Source(str(run)), takes_pixels)

    assert found is not None
    _, counts = np.unique(found.threshold_rows().inputs["input"][:, 0, 0, 0], return_counts=True)
    assert counts.tolist() == [LIMIT // CLASSES] * CLASSES
    training = found.training_rows()
    assert training is not None
    _, counts = np.unique(training["input"][:, 0, 0, 0], return_counts=True)
    assert (counts.sum(), counts.min()) == (200, 200 // CLASSES)
    compared, labels = found.compared_rows()
    _, counts = np.unique(labels, return_counts=True)
    assert len(compared["input"]) == counts.sum()
    assert counts.min() == counts.max()


@pytest.mark.parametrize(
    ("least", "counts", "origin"),
    [
        (120, {"validation": 120, "test": 0, "train": 0}, "rows of the validation split"),
        (121, {"validation": 120, "test": 240, "train": 0}, "rows of the validation and test splits"),
        (360, {"validation": 120, "test": 240, "train": 0}, "rows of the validation and test splits"),
        (420, {"validation": 120, "test": 240, "train": 60}, "rows of the validation, test and training splits"),
        (9999, {"validation": 120, "test": 240, "train": 840}, "rows of the validation, test and training splits"),
    ],
)
def test_thresholds_take_test_and_then_training_rows_where_validation_rows_are_few(
    run: Path, monkeypatch: pytest.MonkeyPatch, least: int, counts: dict[str, int], origin: str
) -> None:
    monkeypatch.setattr(calibrate, "MAX_ROWS", 2000)
    monkeypatch.setattr(calibrate, "MIN_ROWS", least)
    found = run_data(Source(str(run)), takes_pixels=False)
    assert found is not None
    numbers = np.arange(len(found.dataset.x), dtype=np.float32)
    numbered = replace(found.dataset, x=np.broadcast_to(numbers[:, None, None, None], found.dataset.x.shape))

    rows = replace(found, dataset=numbered).threshold_rows()

    taken = rows.inputs["input"][:, 0, 0, 0]
    of_split = {name: numbered.tensors(getattr(numbered.splits, name))[:, 0, 0, 0] for name in counts}
    assert {name: int(np.isin(taken, numbers).sum()) for name, numbers in of_split.items()} == counts
    assert len(taken) == len(np.unique(taken)) == sum(counts.values())
    assert rows.origin == origin


def test_thresholds_take_training_rows_of_every_class(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "MAX_ROWS", 2000)
    monkeypatch.setattr(calibrate, "MIN_ROWS", 420)
    found = run_data(Source(str(run)), takes_pixels=False)

    assert found is not None
    _, counts = np.unique(found.threshold_rows().inputs["input"][:, 0, 0, 0], return_counts=True)
    assert counts.tolist() == [70] * CLASSES


def test_few_training_rows_give_no_ranges(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MIN_SAMPLES", 1000)
    found = run_data(Source(str(run)), takes_pixels=False)

    assert found is not None
    assert found.training_rows() is None


def test_data_that_have_changed_since_the_training_are_not_taken(run: Path) -> None:
    with np.load(run.parent / "sorted.npz") as file:
        np.savez(run.parent / "sorted.npz", x=file["x"] + 1, y=file["y"])

    assert run_data(Source(str(run)), takes_pixels=False) is None

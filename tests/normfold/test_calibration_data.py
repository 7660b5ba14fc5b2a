"""Rows of a run's data that an export takes: for drift thresholds, for ranges, and to compare networks on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from normfold._shared.calibration_data import run_data
from normfold._shared.source import Source
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
    _, counts = np.unique(found.validation_rows()["input"][:, 0, 0, 0], return_counts=True)
    assert counts.tolist() == [LIMIT // CLASSES] * CLASSES
    training = found.training_rows()
    assert training is not None
    _, counts = np.unique(training["input"][:, 0, 0, 0], return_counts=True)
    assert (counts.sum(), counts.min()) == (200, 200 // CLASSES)
    compared, labels = found.compared_rows()
    _, counts = np.unique(labels, return_counts=True)
    assert len(compared["input"]) == counts.sum()
    assert counts.min() == counts.max()


def test_few_training_rows_give_no_ranges(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MIN_SAMPLES", 1000)
    found = run_data(Source(str(run)), takes_pixels=False)

    assert found is not None
    assert found.training_rows() is None


def test_data_that_have_changed_since_the_training_are_not_taken(run: Path) -> None:
    with np.load(run.parent / "sorted.npz") as file:
        np.savez(run.parent / "sorted.npz", x=file["x"] + 1, y=file["y"])

    assert run_data(Source(str(run)), takes_pixels=False) is None

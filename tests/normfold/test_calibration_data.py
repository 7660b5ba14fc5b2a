"""Which rows of a run's data say what is normal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normfold._shared.calibration_data import validation_rows
from normfold._shared.source import Source
from normfold.contract.source_card import SourceCard
from normfold.export.bundle import calibrate
from normfold.models.architectures.registry import Architecture
from normfold.models.data.data import DataConfig
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
    save_config(tmp_path / "run", RunConfig(architecture=architecture, data=data, card=SourceCard()))
    return tmp_path / "run"


@pytest.mark.parametrize("takes_pixels", [False, True])
def test_every_class_has_its_share(run: Path, takes_pixels: bool) -> None:
    found: dict[str, Any] | None = validation_rows(Source(str(run)), takes_pixels)

    assert found is not None
    _, counts = np.unique(found["input"][:, 0, 0, 0], return_counts=True)
    assert counts.tolist() == [LIMIT // CLASSES] * CLASSES

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from normfold.models.data.data import DataConfig, Dataset, load_dataset
from normfold.models.training.checkpoint import RunConfig, make_run_config
from normfold.models.training.config import TrainConfig

torch.set_num_threads(1)  # tests run beside others; and the order of additions is then the same everywhere

MakeRun = Callable[..., tuple[RunConfig, Dataset]]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """120 images of 6 × 6 in three classes that differ in where they are bright."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = rng.uniform(0, 0.5, (120, 6, 6))
    for number in range(3):
        x[y == number, :, 2 * number : 2 * number + 2] += 0.5
    path = tmp_path / "images.npz"
    np.savez(path, x=x.astype(np.float32), y=y, value_max=1.0)
    return path


@pytest.fixture
def make_run(images: Path) -> MakeRun:
    """Config and data of a run that takes a moment."""

    def make(name: str = "convnet", options: dict[str, Any] | None = None, **train: Any) -> tuple[RunConfig, Dataset]:
        if options is None and name == "convnet":
            options = {"widths": [4, 8], "blocks_per_stage": 1, "dropout": 0.2}
        data = DataConfig(source=f"npz:{images}")
        dataset = load_dataset(data)
        settings = TrainConfig(**({"epochs": 3, "batch_size": 40} | train))
        return make_run_config(name, options or {}, data, dataset, settings), dataset

    return make


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on the CPU, where a run can be repeated bit for bit, whatever the machine has."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)

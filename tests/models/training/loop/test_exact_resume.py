"""A run that was interrupted ends as one that was not, with every part of the loop that is used by choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from normfold.models.training.train import fit
from tests.support.training import MakeRun, StopAfter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("on_cpu"),
    pytest.mark.filterwarnings("ignore:BatchNorm computes its statistics over 20 rows"),
]


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of a run's files but for durations and the plot."""
    names = ("*.safetensors", "config.json", "list.json")
    return {str(path.relative_to(folder)): path.read_bytes() for name in names for path in folder.rglob(name)}


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "cosine", "warmup_fraction": 0.2},
        {"schedule": "step", "optimizer": "sgd"},
        {"schedule": "constant"},
        {"accumulate": 2, "clip_norm": 1.0},
        {"ema": 0.9, "lr": 0.05},
        {"keep": 2},
        {"channels_last": True},
        {"ema": 0.9, "accumulate": 2, "keep": 2, "schedule": "cosine", "channels_last": True, "freeze_bn": "*"},
    ],
    ids=lambda settings: "-".join(settings),
)
@pytest.mark.parametrize("epoch", [0, 2])
def test_interrupted_run_ends_with_the_files_of_an_uninterrupted_one(
    tmp_path: Path, make_run: MakeRun, settings: dict[str, Any], epoch: int
) -> None:
    config, dataset = make_run(epochs=4, batch_size=20 if "accumulate" in settings else 40, **settings)
    fit(config, dataset, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(config, dataset, tmp_path / "broken", callback=StopAfter(epoch))
    torch.manual_seed(123)  # whatever happened between
    fit(config, dataset, tmp_path / "broken", resume=True)
    assert files(tmp_path / "broken") == files(tmp_path / "whole")

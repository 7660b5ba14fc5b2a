from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from normfold.models.training.checkpoint import load_checkpoint
from normfold.models.training.loop.accumulation import count_steps, micro_batches
from normfold.models.training.train import fit
from tests.support.training import MakeRun


def test_micro_batches_are_grouped_into_steps_with_shares_of_one() -> None:
    batches = [np.arange(4), np.arange(4), np.arange(4), np.arange(4), np.arange(2)]
    found = [*micro_batches(batches, 3)]
    assert [(one.step, one.is_first, one.is_last) for one in found] == [
        (0, True, False),
        (0, False, False),
        (0, False, True),
        (1, True, False),
        (1, False, True),
    ]
    assert [one.share for one in found] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 4 / 6, 2 / 6], rel=1e-12)
    assert count_steps(5, 3) == 2


def test_micro_batches_of_one_are_whole_steps() -> None:
    assert all(one.is_first and one.is_last and one.share == 1 for one in micro_batches([np.arange(3)] * 4, 1))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder).network.state_dict()


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.filterwarnings("ignore:BatchNorm computes its statistics over 14 rows")
def test_accumulated_gradient_is_that_of_the_whole_batch(tmp_path: Path, make_run: MakeRun) -> None:
    """Without BatchNorm; with it the statistics are of the small batches, so that the results differ."""
    options = {"epochs": 1, "optimizer": "sgd", "lr": 0.1, "clip_norm": 0.5, "schedule": "constant"}
    for name, batchnorm in (("with", True), ("without", False)):
        folder = tmp_path / name
        frozen = {} if batchnorm else {"freeze_bn": "*"}
        arguments = ("mlp", {"widths": [8]})
        fit(*make_run(*arguments, batch_size=42, **options, **frozen), folder / "whole")
        fit(*make_run(*arguments, batch_size=14, accumulate=3, **options, **frozen), folder / "parts")
        whole, parts = weights(folder / "whole"), weights(folder / "parts")
        alike = all(torch.allclose(whole[key], parts[key], rtol=1e-4, atol=1e-6) for key in whole)
        assert alike is not batchnorm

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from normfold.models.data.augmentation.choose import Augmentation
from normfold.models.data.augmentation.mixup import Mixed, draw_mixed

CPU = torch.device("cpu")


def test_mixup_mixes_samples_and_their_losses() -> None:
    mixed = Mixed(0.75, torch.tensor([1, 2, 0]))
    x, y = torch.tensor([[0.0], [4.0], [8.0]]), torch.tensor([0, 1, 1])
    assert mixed.samples(x).flatten().tolist() == [1.0, 5.0, 6.0]
    outputs = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    one_hot = 0.75 * F.one_hot(y, 2) + 0.25 * F.one_hot(y[mixed.partners], 2)
    assert mixed.loss(F.cross_entropy, outputs, y).item() == pytest.approx(
        -(outputs.log_softmax(1) * one_hot).sum(1).mean().item(), rel=1e-6
    )


def test_mixup_is_drawn_from_the_beta_distribution_by_seed_epoch_step_and_process() -> None:
    drawn = [draw_mixed(0.4, 6, CPU, seed=0, epoch=1, step=step, process=0) for step in range(2000)]
    weights = np.array([one.weight for one in drawn])
    assert ((weights >= 0.5) & (weights <= 1)).all()
    # E[(w - 1/2)²] of Beta(a, a) is 1 / (4 (2a + 1)), and does not change with max(w, 1 - w)
    assert ((weights - 0.5) ** 2).mean() == pytest.approx(1 / (4 * 1.8), rel=0.05)
    again = draw_mixed(0.4, 6, CPU, seed=0, epoch=1, step=5, process=0)
    assert again.weight == drawn[5].weight
    assert again.partners.tolist() == drawn[5].partners.tolist()
    for other in ({"seed": 1}, {"epoch": 2}, {"process": 1}):
        where = {"seed": 0, "epoch": 1, "step": 5, "process": 0} | other
        assert draw_mixed(0.4, 6, CPU, **where).weight != again.weight


def test_mixup_of_0_mixes_nothing() -> None:
    assert Augmentation().mix(torch.zeros(4, 2), 1, 0) is None
    assert Augmentation(mixup=0.3).mix(torch.zeros(4, 2), 1, 0) is not None

"""Learning rates by layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normfold.models.architectures.blocks import ConvBatchNorm
from normfold.models.fine_tuning.layer_decay import parameter_groups
from normfold.models.training.config import TrainConfig
from normfold.models.training.optimizer import make_optimizer, set_learning_rate

pytestmark = pytest.mark.slow


def network() -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm2d(1), ConvBatchNorm(1, 2), ConvBatchNorm(2, 2), nn.Flatten(), nn.Linear(2, 3, bias=True)
    )


def test_each_layer_learns_at_a_fraction_of_the_next_ones_rate() -> None:
    net = network()
    optimizer = make_optimizer(net, TrainConfig(layer_decay=0.5, weight_decay=0.1))
    set_learning_rate(optimizer, 0.08)
    groups = {id(one): group for group in optimizer.param_groups for one in group["params"]}
    rates = {name: groups[id(one)]["lr"] for name, one in net.named_parameters()}
    assert rates == {
        "0.weight": 0.02,  # before the first layer, and so of it
        "0.bias": 0.02,
        "1.weight_layer.weight": 0.02,
        "1.norm.weight": 0.02,
        "1.norm.bias": 0.02,
        "2.weight_layer.weight": 0.04,
        "2.norm.weight": 0.04,
        "2.norm.bias": 0.04,
        "4.weight": 0.08,
        "4.bias": 0.08,
    }
    assert optimizer.param_groups[0]["lr"] == 0.08  # the rate that is recorded
    decay = {name: groups[id(one)]["weight_decay"] for name, one in net.named_parameters()}
    assert {name for name, value in decay.items() if value} == {
        name for name in decay if net.get_parameter(name).ndim > 1
    }


def test_frozen_layers_count_and_are_left_out() -> None:
    net = network()
    net[1].requires_grad_(False)
    net[0].requires_grad_(False)
    groups = parameter_groups(net, 0.1, 0.5)
    assert sorted({group["lr_scale"] for group in groups}) == [0.5, 1.0]
    assert sum(len(group["params"]) for group in groups) == 5


def test_one_rate_makes_the_two_groups_of_before() -> None:
    groups = make_optimizer(network(), TrainConfig()).param_groups
    assert len(groups) == 2
    assert "lr_scale" not in groups[0]


def test_shared_parameter_is_in_one_group() -> None:
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    groups = parameter_groups(nn.Sequential(first, second), 0.1, 0.5)
    torch.optim.AdamW(groups)  # refuses a parameter in two groups
    assert [len(group["params"]) for group in groups] == [1]

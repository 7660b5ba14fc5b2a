from __future__ import annotations

import pytest
import torch
from torch import nn

from normfold.models.architectures.blocks import ConvBatchNorm
from normfold.models.errors import TrainingWarning
from normfold.models.training.config import TrainConfig, warn_about_batch_size
from normfold.models.training.optimizer import make_optimizer

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_scale_shift_and_bias_have_no_weight_decay() -> None:
    network = nn.Sequential(ConvBatchNorm(1, 2), nn.Flatten(), nn.Linear(2, 3))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = make_optimizer(network, TrainConfig(weight_decay=0.5)).param_groups
    decayed, spared = ([names[id(parameter)] for parameter in group["params"]] for group in groups)
    assert decayed == ["0.weight_layer.weight", "2.weight"]
    assert spared == ["0.norm.weight", "0.norm.bias", "2.bias"]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]


@pytest.mark.slow
def test_parameters_without_weight_decay_do_not_change_without_gradient() -> None:
    block = ConvBatchNorm(1, 2)
    before = block.weight_layer.weight.clone()
    for parameter in block.parameters():
        parameter.grad = torch.zeros_like(parameter)
    make_optimizer(block, TrainConfig(optimizer="sgd", lr=0.1, weight_decay=0.5)).step()
    assert torch.equal(block.norm.weight, torch.ones(2))
    assert not torch.equal(block.weight_layer.weight, before)


def test_frozen_parameters_are_left_out() -> None:
    network = nn.Linear(2, 3)
    network.bias.requires_grad_(False)
    assert len(make_optimizer(network, TrainConfig()).param_groups) == 1


@pytest.mark.parametrize(
    ("optimizer", "kind", "lr"), [("adamw", torch.optim.AdamW, 5e-3), ("sgd", torch.optim.SGD, 0.1)]
)
def test_optimizers_have_a_default_learning_rate(optimizer: str, kind: type, lr: float) -> None:
    made = make_optimizer(nn.Linear(2, 3), TrainConfig(optimizer=optimizer))
    assert isinstance(made, kind)
    assert made.param_groups[0]["lr"] == lr
    assert made.param_groups[0].get("nesterov", True)


@pytest.mark.parametrize(("rows", "reason"), [(31, "noisy.*Wu & He 2018"), (257, "generalise worse.*Keskar")])
def test_unusual_batch_size_warns_with_the_reason(rows: int, reason: str) -> None:
    with pytest.warns(TrainingWarning, match=reason):
        warn_about_batch_size(rows)


@pytest.mark.parametrize("rows", [32, 256])
def test_usual_batch_size_does_not_warn(rows: int) -> None:
    warn_about_batch_size(rows)


def test_train_config_survives_json_and_all_fields_have_a_description() -> None:
    config = TrainConfig(optimizer="sgd", lr=0.3, patience=2)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    assert all(field.description for field in TrainConfig.model_fields.values())

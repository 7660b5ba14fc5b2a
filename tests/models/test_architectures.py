"""mlp, convnet and resnet: what they return, what they refuse, and that everything in them can fold."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.blocks import ConvNorm
from models.convnet import convnet
from models.errors import ArchitectureError
from models.mlp import mlp
from models.registry import FACTORIES, Architecture, build
from models.resnet import BasicBlock, BottleneckBlock, resnet


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (mlp((7,), 3), (7,)),
        (mlp((1, 4, 4), 3, widths=[5]), (1, 4, 4)),
        (convnet((2, 9), 3), (2, 9)),
        (convnet((1, 8, 8), 3), (1, 8, 8)),
        (convnet((1, 4, 4, 4), 3, dropout=0.5), (1, 4, 4, 4)),
        (resnet((3, 8, 8), 3), (3, 8, 8)),
        (resnet((3, 32, 32), 3, block="bottleneck", depths=[1, 1], widths=[4, 8], stem="large"), (3, 32, 32)),
    ],
)
def test_logits_have_one_column_a_class(network: nn.Module, shape: tuple[int, ...]) -> None:
    assert network(torch.randn(4, *shape)).shape == (4, 3)


@pytest.mark.parametrize("name", FACTORIES)
def test_every_batchnorm_follows_a_weight_layer_without_bias(name: str) -> None:
    with torch.device("meta"):
        network = build(Architecture(name=name, input_shape=(3, 8, 8), classes=4))
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    blocks = [module for module in network.modules() if getattr(module, "weight_layer", None) is not None]
    assert norms
    assert [block.norm for block in blocks] == norms
    assert all(block.weight_layer.bias is None for block in blocks)


@pytest.mark.parametrize(
    ("name", "parameters", "norms"),
    [("resnet18", 11_689_512, 20), ("resnet34", 21_797_672, 36), ("resnet50", 25_557_032, 53)],
)
def test_registered_resnets_have_the_published_size(name: str, parameters: int, norms: int) -> None:
    with torch.device("meta"):
        network = build(Architecture(name=name, input_shape=(3, 224, 224), classes=1000))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert sum(isinstance(module, _BatchNorm) for module in network.modules()) == norms


def test_large_pictures_get_the_large_stem_and_small_ones_the_small() -> None:
    large, small = resnet((3, 64, 64), 2).stem, resnet((3, 32, 32), 2).stem
    assert large(torch.zeros(2, 3, 64, 64)).shape[2:] == (16, 16)
    assert small(torch.zeros(2, 3, 32, 32)).shape[2:] == (32, 32)


@pytest.mark.parametrize("kind", [BasicBlock, BottleneckBlock])
def test_block_adds_the_input_to_the_residual(kind: type[BasicBlock] | type[BottleneckBlock]) -> None:
    torch.manual_seed(0)
    block = kind(4 * kind.expansion, 4, 1).eval()
    x = torch.randn(2, 4 * kind.expansion, 5, 5)
    assert torch.equal(block(x), torch.relu(block.residual(x) + x))


def test_zero_init_makes_blocks_start_as_their_shortcut() -> None:
    x = torch.randn(4, 16, 8, 8).relu()
    assert torch.equal(resnet((16, 8, 8), 2, widths=[16], depths=[2]).stages(x), x)
    assert not torch.equal(resnet((16, 8, 8), 2, widths=[16], depths=[2], zero_init=False).stages(x), x)


@pytest.mark.parametrize("network", [mlp((4,), 2, dropout=0.5), convnet((1, 8, 8), 2, dropout=0.5)])
def test_dropout_stands_after_the_last_batchnorm(network: nn.Module) -> None:
    kinds = [type(module) for module in network.modules() if isinstance(module, (_BatchNorm, nn.Dropout))]
    assert kinds[-1] is nn.Dropout
    assert kinds.count(nn.Dropout) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mlp((4,), 2, widths=[]), "at least one width"),
        (lambda: convnet((4,), 2), "for rows use mlp"),
        (lambda: convnet((1, 3, 8), 2, widths=[1, 2, 3]), "at least 4 along every axis, got \\[3, 8\\]"),
        (lambda: convnet((1, 8, 8), 2, blocks_per_stage=0), "one block per stage"),
        (lambda: resnet((4,), 2), "channels, height, width"),
        (lambda: resnet((1, 8, 8), 2, depths=[1]), "one depth for each width"),
        (lambda: resnet((1, 8, 8), 2, block="huge"), "Unknown block 'huge'"),
        (lambda: resnet((1, 8, 8), 2, stem="huge"), "Unknown stem 'huge'"),
    ],
)
def test_impossible_options_are_explained(make: object, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        make()


def test_shortcut_is_a_projection_only_where_the_shape_changes() -> None:
    assert isinstance(BasicBlock(4, 4, 1).shortcut, nn.Identity)
    assert isinstance(BasicBlock(4, 4, 2).shortcut, ConvNorm)
    assert isinstance(BasicBlock(4, 8, 1).shortcut, ConvNorm)

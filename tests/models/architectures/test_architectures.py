"""Architectures: shapes of the logits, rejected options, and the positions of BatchNorm and dropout."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normfold.models.architectures.blocks import EPSILON, MOMENTUM, BatchNormActivation, ConvBatchNorm
from normfold.models.architectures.convnet import convnet
from normfold.models.architectures.densenet import DenseLayer, densenet
from normfold.models.architectures.mlp import mlp
from normfold.models.architectures.mobilenet import InvertedResidual, mobilenet
from normfold.models.architectures.preact_resnet import PreActivationBlock, preact_resnet
from normfold.models.architectures.registry import FACTORIES, Architecture, build
from normfold.models.architectures.repvgg import RepVggBlock, repvgg
from normfold.models.architectures.resnet import BasicBlock, BottleneckBlock, resnet
from normfold.models.architectures.temporal import TemporalBlock, temporal
from normfold.models.architectures.unet import unet
from normfold.models.errors import ArchitectureError

SEQUENCE = {"temporal"}
"""Networks that take (channels, length); all others take images."""

PREACTIVATED = {"densenet", "densenet121", "preact_resnet"}
"""Networks some of whose BatchNorms come before their weight layer, as published."""


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
        (mobilenet((1, 8, 8), 3, dropout=0.5), (1, 8, 8)),
        (mobilenet((3, 9, 7), 3, depths=[1, 1], expansion=1, stem_stride=2), (3, 9, 7)),
        (densenet((1, 8, 8), 3), (1, 8, 8)),
        (densenet((3, 64, 64), 3, depths=[1, 2], growth_rate=4, compression=1), (3, 64, 64)),
        (preact_resnet((1, 8, 8), 3), (1, 8, 8)),
        (preact_resnet((3, 64, 64), 3, block="bottleneck", depths=[1, 1], widths=[4, 8]), (3, 64, 64)),
        (repvgg((1, 8, 8), 3), (1, 8, 8)),
        (repvgg((3, 9, 7), 3, first_stride=2), (3, 9, 7)),
        (temporal((2, 9), 3), (2, 9)),
        (temporal((5, 30), 3, widths=[4], kernel_size=5), (5, 30)),
    ],
)
def test_logits_have_one_column_per_class(network: nn.Module, shape: tuple[int, ...]) -> None:
    assert network(torch.randn(4, *shape)).shape == (4, 3)


@pytest.mark.parametrize(("shape", "widths"), [((1, 8, 8), [4, 6, 8]), ((3, 4, 12), [4, 8, 12]), ((1, 5, 7), [4])])
def test_unet_returns_logits_of_every_pixel(shape: tuple[int, ...], widths: list[int]) -> None:
    network = unet(shape, 3, widths=widths, dropout=0.5)
    assert network(torch.randn(4, *shape)).shape == (4, 3, *shape[1:])


def test_unet_skips_carry_the_finest_level_alone_without_input_from_below() -> None:
    torch.manual_seed(0)
    network = unet((1, 32, 32), 2).eval()
    for module in network.modules():
        if isinstance(module, nn.ConvTranspose2d):
            nn.init.zeros_(module.weight)  # nothing comes up from below
    x = torch.randn(1, 1, 32, 32)
    moved = x.clone()
    moved[0, 0, 16, 16] += 1
    changed = (network(moved) != network(x)).any(dim=1)[0]
    assert changed[16, 16]
    assert changed.nonzero().sub(16).abs().max() == 4  # four 3 × 3 convolutions of the finest level


def make_on_meta(name: str, size: int = 8, classes: int = 4) -> nn.Module:
    shape = (3, size) if name in SEQUENCE else (3, size, size)
    with torch.device("meta"):
        return build(Architecture(name=name, input_shape=shape, classes=classes))


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTORIES)
def test_every_batchnorm_has_the_same_epsilon_and_momentum(name: str) -> None:
    norms = [module for module in make_on_meta(name).modules() if isinstance(module, _BatchNorm)]
    assert norms
    assert {(norm.eps, norm.momentum, norm.track_running_stats) for norm in norms} == {(EPSILON, MOMENTUM, True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FACTORIES if name not in PREACTIVATED | {"repvgg"}])
def test_every_batchnorm_follows_a_weight_layer_without_bias(name: str) -> None:
    network = make_on_meta(name)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    blocks = [module for module in network.modules() if getattr(module, "weight_layer", None) is not None]
    assert norms
    assert [block.norm for block in blocks] == norms
    assert all(block.weight_layer.bias is None for block in blocks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters", "norms"),
    [
        ("resnet18", 11_689_512, 20),
        ("resnet34", 21_797_672, 36),
        ("resnet50", 25_557_032, 53),
        ("mobilenet_v2", 3_504_872, 52),
        ("densenet121", 7_978_856, 121),
    ],
)
def test_registered_networks_have_the_published_size(name: str, parameters: int, norms: int) -> None:
    network = make_on_meta(name, 224, 1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert sum(isinstance(module, _BatchNorm) for module in network.modules()) == norms


def test_auto_stem_is_large_from_64_pixels_on() -> None:
    large, small = resnet((3, 64, 64), 2).stem, resnet((3, 32, 32), 2).stem
    assert large(torch.zeros(2, 3, 64, 64)).shape[2:] == (16, 16)
    assert small(torch.zeros(2, 3, 32, 32)).shape[2:] == (32, 32)


@pytest.mark.parametrize("kind", [BasicBlock, BottleneckBlock])
def test_block_adds_the_input_to_the_residual(kind: type[BasicBlock] | type[BottleneckBlock]) -> None:
    torch.manual_seed(0)
    block = kind(4 * kind.expansion, 4, 1).eval()
    x = torch.randn(2, 4 * kind.expansion, 5, 5)
    assert torch.equal(block(x), torch.relu(block.residual(x) + x))


def test_zero_init_makes_blocks_begin_as_their_shortcut() -> None:
    x = torch.randn(4, 16, 8, 8).relu()
    assert torch.equal(resnet((16, 8, 8), 2, widths=[16], depths=[2]).stages(x), x)
    assert not torch.equal(resnet((16, 8, 8), 2, widths=[16], depths=[2], zero_init=False).stages(x), x)


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTORIES)
def test_dropout_runs_after_the_last_batchnorm(name: str) -> None:
    shape = (3, 64) if name in SEQUENCE else (3, 64, 64)
    network = build(Architecture(name=name, input_shape=shape, classes=2, options={"dropout": 0.5})).eval()
    called: list[type[nn.Module]] = []
    for module in network.modules():
        if isinstance(module, (_BatchNorm, nn.Dropout)):
            module.register_forward_hook(lambda module, *_: called.append(type(module)))
    network(torch.zeros(1, *shape))
    assert called[-1] is nn.Dropout
    assert called.count(nn.Dropout) == 1
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == [0.5]


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("dropout", [-0.1, 1, 1.5, "much", True, None])
def test_dropout_outside_of_zero_to_one_is_refused(name: str, dropout: object) -> None:
    shape = (3, 8) if name in SEQUENCE else (3, 8, 8)
    with pytest.raises(ArchitectureError, match="'dropout' must be a probability of at least 0 and below 1, not"):
        build(Architecture(name=name, input_shape=shape, classes=2, options={"dropout": dropout}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mlp((4,), 2, widths=[]), "at least one width"),
        (lambda: convnet((4,), 2), "use mlp for table rows"),
        (lambda: convnet((1, 3, 8), 2, widths=[1, 2, 3]), "at least 4 along every axis, got \\[3, 8\\]"),
        (lambda: convnet((1, 8, 8), 2, blocks_per_stage=0), "one block per stage"),
        (lambda: resnet((4,), 2), "channels, height, width"),
        (lambda: resnet((1, 8, 8), 2, depths=[1]), "one depth for each width"),
        (lambda: resnet((1, 8, 8), 2, block="huge"), "Unknown block 'huge'"),
        (lambda: resnet((1, 8, 8), 2, stem="huge"), "Unknown stem 'huge'"),
        (lambda: resnet((1, 8, 8), 2, depths=[], widths=[]), "'depths' must be a list of positive integers"),
        (lambda: mobilenet((4,), 2), "A mobilenet takes samples of shape"),
        (lambda: mobilenet((1, 8, 8), 2, depths=[1]), "one depth for each width"),
        (lambda: mobilenet((1, 8, 8), 2, strides=[1]), "one stride for each width; got strides \\[1\\]"),
        (lambda: mobilenet((1, 8, 8), 2, widths=[8, 0]), "'widths' must be a list of positive integers"),
        (lambda: mobilenet((1, 8, 8), 2, expansion=1.5), "'expansion' must be a positive integer, not 1.5"),
        (lambda: mobilenet((1, 8, 8), 2, head_width=True), "'head_width' must be a positive integer, not True"),
        (lambda: densenet((4, 8), 2), "A densenet takes samples of shape"),
        (lambda: densenet((1, 8, 8), 2, depths=3), "'depths' must be a list of positive integers"),
        (lambda: densenet((1, 8, 8), 2, growth_rate=0), "'growth_rate' must be a positive integer, not 0"),
        (lambda: densenet((1, 8, 8), 2, compression=1.1), "'compression' must be a number above 0 and at most 1"),
        (lambda: densenet((1, 8, 8), 2, growth_rate=1, compression=0.1), "0.1 leaves none of 6 channels"),
        (lambda: densenet((1, 3, 8), 2, depths=[1, 1, 1]), "at least 4 along every axis, got \\[3, 8\\]"),
        (lambda: densenet((1, 64, 64), 2, depths=[1] * 6), "at least 128 along every axis, got \\[64, 64\\]"),
        (lambda: densenet((1, 8, 8), 2, stem="huge"), "Unknown stem 'huge'"),
        (lambda: preact_resnet((4, 8), 2), "A preact_resnet takes samples of shape"),
        (lambda: preact_resnet((1, 8, 8), 2, block="huge"), "Unknown block 'huge'; choose from basic, bottleneck"),
        (lambda: preact_resnet((1, 8, 8), 2, widths=[1]), "one depth for each width"),
        (lambda: repvgg((4,), 2), "A repvgg takes samples of shape"),
        (lambda: repvgg((1, 8, 8), 2, first_stride="two"), "'first_stride' must be a positive integer"),
        (lambda: unet((4,), 2), "A unet takes samples of shape"),
        (lambda: unet((1, 8, 10), 2), "multiples of 4, got \\[8, 10\\]; give fewer widths"),
        (lambda: unet((1, 8, 8), 2, widths=[]), "'widths' must be a list of positive integers"),
        (lambda: temporal((1, 8, 8), 2), "an array 'channels' .* marks 'x' as sequences"),
        (lambda: temporal((2, 8), 2, kernel_size=2), "The kernel size must be odd"),
        (lambda: temporal((2, 8), 2, widths=["a"]), "'widths' must be a list of positive integers"),
    ],
)
def test_architecture_names_a_wrong_option(make: object, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        make()


def test_shortcut_is_a_projection_only_where_the_shape_changes() -> None:
    assert isinstance(BasicBlock(4, 4, 1).shortcut, nn.Identity)
    assert isinstance(BasicBlock(4, 4, 2).shortcut, ConvBatchNorm)
    assert isinstance(BasicBlock(4, 8, 1).shortcut, ConvBatchNorm)


def test_inverted_residual_adds_its_input_only_where_the_shape_stays() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    block = InvertedResidual(4, 4, 1, 6).eval()
    assert torch.equal(block(x), x + block.residual(x))
    assert [layer.weight_layer.groups for layer in block.residual] == [1, 24, 1]
    for other in (InvertedResidual(4, 4, 2, 6).eval(), InvertedResidual(4, 5, 1, 6).eval()):
        assert torch.equal(other(x), other.residual(x))
    assert len(InvertedResidual(4, 4, 1, 1).residual) == 2


def test_bottleneck_of_an_inverted_residual_is_linear() -> None:
    x = torch.randn(8, 4, 6, 6)
    assert (InvertedResidual(4, 5, 1, 6)(x) < 0).any()


def test_dense_layer_passes_its_input_on() -> None:
    x = torch.randn(2, 6, 5, 5)
    y = DenseLayer(6, 3)(x)
    assert y.shape == (2, 9, 5, 5)
    assert torch.equal(y[:, :6], x)


def test_shortcut_of_a_preactivated_block_has_no_batchnorm_and_no_activation() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    block = PreActivationBlock(4, 4, 1, block="basic", first=False).eval()
    assert torch.equal(block(x), block.residual(block.activated(x)) + x)
    wider = PreActivationBlock(4, 8, 2, block="basic", first=False).eval()
    activated = wider.activated(x)
    assert torch.equal(wider(x), wider.residual(activated) + wider.projection(activated))


def test_first_preactivated_block_uses_the_activation_of_the_stem() -> None:
    network = preact_resnet((1, 8, 8), 2, depths=[2], widths=[4])
    assert isinstance(network.stages[0].activated, nn.Identity)
    assert isinstance(network.stages[1].activated, BatchNormActivation)


def test_repvgg_block_has_an_identity_branch_only_where_the_shape_stays() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    block = RepVggBlock(4, 4, 1).eval()
    assert torch.equal(block(x), torch.relu(block.dense(x) + block.pointwise(x) + block.identity(x)))
    assert RepVggBlock(4, 4, 2).identity is None
    assert RepVggBlock(4, 8, 1).identity is None


def test_temporal_blocks_double_the_dilation() -> None:
    torch.manual_seed(0)
    dilations = [block.residual[0].weight_layer.dilation for block in temporal((2, 9), 2).blocks]
    assert dilations == [(1,), (2,), (4,)]
    x = torch.randn(1, 3, 21)
    moved = x.clone()
    moved[0, :, 10] += 1
    block = TemporalBlock(3, 3, 3, dilation=4).eval()
    changed = (block(moved) != block(x)).any(dim=1)[0].nonzero().flatten()
    assert set(changed.tolist()) <= {2, 6, 10, 14, 18}
    assert {6, 10, 14} <= set(changed.tolist())

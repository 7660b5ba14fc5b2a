"""Residual networks, version 1: every BatchNorm directly follows its convolution, so that all of them fold.

Source: He et al. 2015, arXiv:1512.03385. A bottleneck has its stride in the 3 × 3 convolution, as torchvision's has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from normfold.models.architectures.arg_checks import check_choice, check_dropout, check_image_shape, check_stages
from normfold.models.architectures.blocks import ConvBatchNorm
from normfold.models.architectures.classifier import PooledClassifier, halving_strides, plan_blocks
from normfold.models.architectures.stem import Stem, make_stem


class BasicBlock(nn.Module):
    """y = relu(F(x) + shortcut(x)); F is two 3 × 3 ConvBatchNorm layers, the second without activation.

    The shortcut is the identity, or a 1 × 1 ConvBatchNorm where the shape changes.

    Shapes:
        x (N, channels_in, H, W) -> y (N, width, ceil(H / stride), ceil(W / stride)).
    """

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            ConvBatchNorm(channels_in, width, 3, stride=stride), ConvBatchNorm(width, width, 3, activation="none")
        )
        self.shortcut = _make_shortcut(channels_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


class BottleneckBlock(nn.Module):
    """y = relu(F(x) + shortcut(x)); F is a 1 × 1, a 3 × 3 and a 1 × 1 ConvBatchNorm to four times as many channels.

    The shortcut is the identity, or a 1 × 1 ConvBatchNorm where the shape changes.

    Shapes:
        x (N, channels_in, H, W) -> y (N, 4 * width, ceil(H / stride), ceil(W / stride)).
    """

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = width * self.expansion
        self.residual = nn.Sequential(
            ConvBatchNorm(channels_in, width, 1),
            ConvBatchNorm(width, width, 3, stride=stride),
            ConvBatchNorm(width, channels_out, 1, activation="none"),
        )
        self.shortcut = _make_shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


BLOCKS: dict[str, type[BasicBlock] | type[BottleneckBlock]] = {"basic": BasicBlock, "bottleneck": BottleneckBlock}


class ResNet(PooledClassifier):
    """Stem, stages of residual blocks, then the head of PooledClassifier.

    Shapes:
        x (N, C, H, W) -> logits (N, classes).
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        block: str,
        depths: Sequence[int],
        widths: Sequence[int],
        stem: Stem,
        zero_init: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        make_block = BLOCKS[block]
        self.stem = make_stem(input_shape, widths[0], stem)
        channels = widths[0]
        layers: list[nn.Module] = []
        for _, width, stride in plan_blocks(depths, widths, halving_strides(len(widths))):
            layers.append(make_block(channels, width, stride))
            channels = width * make_block.expansion
        self.stages = nn.Sequential(*layers)
        self.add_head(channels, classes, dropout)
        if zero_init:
            _zero_last_scales(self)

    def features(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (N, C, H, W) -> (N, widths[0], H / stem stride, W / stem stride)
        features: Tensor = self.stages(x)  # (N, widths[-1] * expansion, H', W'), half the size after each stage
        return features


def resnet(
    input_shape: Sequence[int],
    classes: int,
    *,
    block: Literal["basic", "bottleneck"] = "basic",
    depths: Sequence[int] = (2, 2, 2),
    widths: Sequence[int] = (16, 32, 64),
    stem: Stem = "auto",
    zero_init: bool = True,
    dropout: float = 0.0,
) -> ResNet:
    """Build a residual network.

    Args:
        input_shape: (channels, height, width).
        classes: number of logits.
        block: `basic`, two 3 × 3 convolutions, or `bottleneck`, a 1 × 1, a 3 × 3 and a 1 × 1 convolution.
        depths: blocks in each stage; the size is halved between stages.
        widths: channels inside the blocks of each stage; a bottleneck's output has four times as many.
        stem: see `normfold.models.architectures.stem.make_stem`.
        zero_init: set the scale of the last BatchNorm of every block to 0, so that each block begins as its shortcut
            (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
        dropout: probability, before the classifier.

    Raises:
        ArchitectureError: samples that are not images, or a wrong option.
    """
    check_image_shape("resnet", input_shape)
    check_choice("block", block, list(BLOCKS))
    check_stages(depths, widths)
    check_dropout(dropout)
    return ResNet(
        input_shape,
        classes,
        block=block,
        depths=depths,
        widths=widths,
        stem=stem,
        zero_init=zero_init,
        dropout=dropout,
    )


def _make_shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    if channels_in == channels_out and stride == 1:
        return nn.Identity()
    return ConvBatchNorm(channels_in, channels_out, 1, stride=stride, activation="none")


def _zero_last_scales(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, (BasicBlock, BottleneckBlock)):
            last = module.residual[-1]
            assert isinstance(last, ConvBatchNorm)
            assert isinstance(last.norm, nn.BatchNorm2d)
            nn.init.zeros_(last.norm.weight)

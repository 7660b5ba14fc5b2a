"""Residual networks, version 1 (normalisation after the weight layer, so that everything folds).

Source: He et al. 2015, arXiv:1512.03385. Bottlenecks stride in their 3 × 3 convolution, as torchvision's do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from normfold.models.architectures.arg_checks import check_choice, check_dropout, check_picture, check_stages
from normfold.models.architectures.blocks import ConvNorm, global_average, initialise
from normfold.models.architectures.stem import Stem, make_stem


class BasicBlock(nn.Module):
    """y = relu(F(x) + shortcut(x)), F two 3 × 3 ConvNorms.

    Shapes:
        x (N, channels_in, H, W) -> y (N, width, ceil(H / stride), ceil(W / stride)).
    """

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            ConvNorm(channels_in, width, 3, stride=stride), ConvNorm(width, width, 3, activation="none")
        )
        self.shortcut = _make_shortcut(channels_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


class BottleneckBlock(nn.Module):
    """y = relu(F(x) + shortcut(x)), F a 1 × 1, a 3 × 3 and a widening 1 × 1 ConvNorm.

    Shapes:
        x (N, channels_in, H, W) -> y (N, 4 * width, ceil(H / stride), ceil(W / stride)).
    """

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = width * self.expansion
        self.residual = nn.Sequential(
            ConvNorm(channels_in, width, 1),
            ConvNorm(width, width, 3, stride=stride),
            ConvNorm(width, channels_out, 1, activation="none"),
        )
        self.shortcut = _make_shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


BLOCKS: dict[str, type[BasicBlock] | type[BottleneckBlock]] = {"basic": BasicBlock, "bottleneck": BottleneckBlock}


class ResNet(nn.Module):
    """Stem, stages of residual blocks, global average, optional dropout, linear classifier.

    Shapes:
        x (N, channels, H, W) -> logits (N, classes).
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
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(make_block(channels, width, stride))
                channels = width * make_block.expansion
        self.stages = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)
        initialise(self)
        if zero_init:
            _start_as_identity(self)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stages(self.stem(x))  # (N, C, H, W) -> (N, channels, H', W')
        pooled = global_average(features)  # (N, channels)
        logits: Tensor = self.classifier(self.dropout(pooled))  # (N, classes)
        return logits


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
        block: two 3 × 3 convolutions, or a bottleneck of 1 × 1, 3 × 3 and 1 × 1.
        depths: blocks in each stage; the size is halved between stages.
        widths: channels of each stage, a quarter of the output for bottlenecks.
        stem: see `models.architectures.stem.make_stem`.
        zero_init: start the last scale of every block at 0, so that each block starts as its shortcut
            (Goyal et al. 2017, arXiv:1706.02677).
        dropout: probability, before the classifier.

    Raises:
        ArchitectureError: rows instead of pictures, or a wrong option.
    """
    check_picture("resnet", input_shape)
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
    return ConvNorm(channels_in, channels_out, 1, stride=stride, activation="none")


def _start_as_identity(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, (BasicBlock, BottleneckBlock)):
            last = module.residual[-1]
            assert isinstance(last, ConvNorm)
            assert isinstance(last.norm, nn.BatchNorm2d)
            nn.init.zeros_(last.norm.weight)

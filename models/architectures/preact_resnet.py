"""Residual networks, version 2: BatchNorm and relu precede the weight layer, and the shortcut has neither.

The first BatchNorm of a block cannot fold: its input, the sum of the block before, is also read by the shortcut, and
its output goes into a relu.

Source: He et al. 2016, arXiv:1603.05027.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from normfold.models.architectures.arg_checks import check_choice, check_dropout, check_image_shape, check_stages
from normfold.models.architectures.blocks import (
    BatchNormActivation,
    PreActivationConv,
    conv2d_without_bias,
)
from normfold.models.architectures.classifier import PooledClassifier, halving_strides, plan_blocks
from normfold.models.architectures.stem import Stem, make_stem

EXPANSIONS = {"basic": 1, "bottleneck": 4}
"""Output channels of a block, as a multiple of its width."""


class PreActivationBlock(nn.Module):
    """y = F(a) + x with a = relu(norm(x)); where the shape changes, y = F(a) + projection(a).

    Shapes:
        x (N, channels_in, H, W) -> y (N, width * expansion, ceil(H / stride), ceil(W / stride)).

    Args:
        channels_in: channels of x.
        width: channels inside F.
        stride: of the first 3 × 3 convolution, and of the projection.
        block: `basic`, where F is two 3 × 3 convolutions, or `bottleneck`, where F is a 1 × 1, a 3 × 3 and a 1 × 1
            convolution to `4 * width` channels.
        first: True for the block right after the stem, which ends in BatchNorm and relu already: a = x.
    """

    def __init__(self, channels_in: int, width: int, stride: int, *, block: str, first: bool) -> None:
        super().__init__()
        channels_out = width * EXPANSIONS[block]
        self.activated = nn.Identity() if first else BatchNormActivation(channels_in)
        if block == "basic":
            layers: list[nn.Module] = [
                conv2d_without_bias(channels_in, width, 3, stride),
                PreActivationConv(width, width, 3),
            ]
        else:
            layers = [
                conv2d_without_bias(channels_in, width, 1),
                PreActivationConv(width, width, 3, stride=stride),
                PreActivationConv(width, channels_out, 1),
            ]
        self.residual = nn.Sequential(*layers)
        changes = channels_in != channels_out or stride != 1
        self.projection = conv2d_without_bias(channels_in, channels_out, 1, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activated(x)
        shortcut = x if self.projection is None else self.projection(activated)
        total: Tensor = self.residual(activated) + shortcut
        return total


class PreactResNet(PooledClassifier):
    """Stem, stages of pre-activated residual blocks, BatchNorm and relu, then the head of PooledClassifier.

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
        dropout: float,
    ) -> None:
        super().__init__()
        self.stem = make_stem(input_shape, widths[0], stem)
        channels = widths[0]
        blocks: list[nn.Module] = []
        for _, width, stride in plan_blocks(depths, widths, halving_strides(len(widths))):
            blocks.append(PreActivationBlock(channels, width, stride, block=block, first=not blocks))
            channels = width * EXPANSIONS[block]
        self.stages = nn.Sequential(*blocks)
        self.last = BatchNormActivation(channels)
        self.add_head(channels, classes, dropout)

    def features(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (N, C, H, W) -> (N, widths[0], H / stem stride, W / stem stride)
        features: Tensor = self.last(self.stages(x))  # (N, widths[-1] * expansion, H', W'), half after each stage
        return features


def preact_resnet(
    input_shape: Sequence[int],
    classes: int,
    *,
    block: Literal["basic", "bottleneck"] = "basic",
    depths: Sequence[int] = (2, 2, 2),
    widths: Sequence[int] = (16, 32, 64),
    stem: Stem = "auto",
    dropout: float = 0.0,
) -> PreactResNet:
    """Build a residual network of pre-activated blocks.

    Args:
        input_shape: (channels, height, width).
        classes: number of logits.
        block: `basic`, two 3 × 3 convolutions, or `bottleneck`, a 1 × 1, a 3 × 3 and a 1 × 1 convolution.
        depths: blocks in each stage; the size is halved between stages.
        widths: channels inside the blocks of each stage; a bottleneck's output has four times as many.
        stem: see `normfold.models.architectures.stem.make_stem`.
        dropout: probability, before the classifier.

    Raises:
        ArchitectureError: samples that are not images, or a wrong option.
    """
    check_image_shape("preact_resnet", input_shape)
    check_choice("block", block, list(EXPANSIONS))
    check_stages(depths, widths)
    check_dropout(dropout)
    return PreactResNet(input_shape, classes, block=block, depths=depths, widths=widths, stem=stem, dropout=dropout)

"""U-Net for semantic segmentation: max pooling on the way down, transposed convolutions on the way up.

Source: Ronneberger et al. 2015, arXiv:1505.04597, with BatchNorm, and with padding that preserves the size.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normfold.models.architectures.arg_checks import check_counts, check_dropout, check_image_shape
from normfold.models.architectures.blocks import ConvBatchNorm, ConvTransposeBatchNorm, initialise
from normfold.models.errors import ArchitectureError


class UpBlock(nn.Module):
    """y = F(concat(skip, up(x))); `up` is a ConvTransposeBatchNorm of stride 2, F two 3 × 3 ConvBatchNorm layers.

    Shapes:
        x (N, channels_in, H, W), skip (N, width, 2 H, 2 W) -> y (N, width, 2 H, 2 W).
    """

    def __init__(self, channels_in: int, width: int) -> None:
        super().__init__()
        self.up = ConvTransposeBatchNorm(channels_in, width, activation="none")
        self.layers = _two_layers(2 * width, width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        enlarged = self.up(x)  # (N, channels_in, H, W) -> (N, width, 2 H, 2 W)
        y: Tensor = self.layers(torch.cat([skip, enlarged], dim=1))  # (N, 2 width, …) -> (N, width, 2 H, 2 W)
        return y


class UNet(nn.Module):
    """Levels of two ConvBatchNorm layers down, UpBlocks up, dropout, and a 1 × 1 convolution as classifier.

    Dropout follows the last BatchNorm (Li et al. 2019, arXiv:1801.05134).

    Shapes:
        x (N, channels, H, W) -> logits (N, classes, H, W); H and W multiples of 2^(levels - 1).
    """

    def __init__(self, channels: int, classes: int, *, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        sizes = [channels, *widths]
        self.down = nn.ModuleList(_two_layers(before, after) for before, after in itertools.pairwise(sizes))
        self.up = nn.ModuleList(UpBlock(below, width) for width, below in reversed(list(itertools.pairwise(widths))))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(widths[0], classes, 1)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, layers in enumerate(self.down):
            x = layers(x if level == 0 else F.max_pool2d(x, 2))  # (N, widths[level], H / 2^level, W / 2^level)
            skips.append(x)
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = block(x, skip)
        logits: Tensor = self.classifier(self.dropout(x))  # (N, widths[0], H, W) -> (N, classes, H, W)
        return logits


def unet(
    input_shape: Sequence[int],
    classes: int,
    *,
    widths: Sequence[int] = (16, 32, 64),
    dropout: float = 0.0,
) -> UNet:
    """Build a U-Net for semantic segmentation; it trains on masks.

    Args:
        input_shape: (channels, height, width).
        classes: number of logits per pixel.
        widths: channels of each level; the size is halved from level to level.
        dropout: probability, before the classifier.

    Raises:
        ArchitectureError: samples that are not images, a size that is not divisible by 2^(levels - 1), or a wrong
            option.
    """
    check_image_shape("unet", input_shape)
    check_counts("widths", widths)
    check_dropout(dropout)
    factor = 2 ** (len(widths) - 1)
    if any(size % factor for size in input_shape[1:]):
        raise ArchitectureError(
            f"{len(widths)} levels need a height and width that are multiples of {factor}, got "
            f"{list(input_shape[1:])}; give fewer widths, or resize the images."
        )
    return UNet(input_shape[0], classes, widths=widths, dropout=dropout)


def _two_layers(channels_in: int, width: int) -> nn.Sequential:
    """Return two 3 × 3 ConvBatchNorm layers: (N, channels_in, H, W) -> (N, width, H, W)."""
    return nn.Sequential(ConvBatchNorm(channels_in, width, 3), ConvBatchNorm(width, width, 3))

"""A network that gives a class to every pixel: down by max pools, up again by transposed convolutions.

Source: Ronneberger et al. 2015, arXiv:1505.04597, with BatchNorm, and padded so that the size stays.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normfold.models.architectures.arg_checks import check_counts, check_dropout, check_picture
from normfold.models.architectures.blocks import ConvNorm, ConvTransposeNorm, initialise
from normfold.models.errors import ArchitectureError


class UpBlock(nn.Module):
    """Enlarge x, set the skip of the same size beside it, and two 3 × 3 ConvNorms.

    Shapes:
        x (N, channels_in, H, W), skip (N, width, 2 H, 2 W) -> y (N, width, 2 H, 2 W).
    """

    def __init__(self, channels_in: int, width: int) -> None:
        super().__init__()
        self.up = ConvTransposeNorm(channels_in, width, activation="none")
        self.layers = _two_layers(2 * width, width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        joined: Tensor = self.layers(torch.cat([skip, self.up(x)], dim=1))
        return joined


class UNet(nn.Module):
    """Levels of two ConvNorms going down, as many going up, optional dropout, and a 1 × 1 convolution as classifier.

    Dropout stands after the last BatchNorm (Li et al. 2019, arXiv:1801.05134).

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
    """Build a network that gives a class to every pixel; it trains on masks.

    Args:
        input_shape: (channels, height, width).
        classes: number of logits of a pixel.
        widths: channels of each level; the size is halved from one to the next.
        dropout: probability, before the classifier.

    Raises:
        ArchitectureError: rows instead of pictures, a size that cannot be halved so often, or a wrong option.
    """
    check_picture("unet", input_shape)
    check_counts("widths", widths)
    check_dropout(dropout)
    factor = 2 ** (len(widths) - 1)
    if any(size % factor for size in input_shape[1:]):
        raise ArchitectureError(
            f"{len(widths)} levels need a height and width that are multiples of {factor}, got "
            f"{list(input_shape[1:])}; give fewer widths, or pictures of another size."
        )
    return UNet(input_shape[0], classes, widths=widths, dropout=dropout)


def _two_layers(channels_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(ConvNorm(channels_in, width, 3), ConvNorm(width, width, 3))

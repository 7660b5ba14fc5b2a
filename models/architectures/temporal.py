"""Residual blocks of dilated convolutions over time, for sequences.

Source: Bai et al. 2018, arXiv:1803.01271, with BatchNorm in the place of weight normalisation, and padded on both
sides: a whole sequence gets one class, so that nothing needs to be kept from looking ahead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from normfold.models.architectures.arg_checks import check_count, check_counts, check_dropout
from normfold.models.architectures.blocks import ConvNorm, global_average, initialise
from normfold.models.errors import ArchitectureError


class TemporalBlock(nn.Module):
    """y = relu(F(x) + shortcut(x)), F two dilated ConvNorms.

    Shapes:
        x (N, channels_in, length) -> y (N, width, length).
    """

    def __init__(self, channels_in: int, width: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            ConvNorm(channels_in, width, kernel_size, rank=1, dilation=dilation),
            ConvNorm(width, width, kernel_size, rank=1, dilation=dilation, activation="none"),
        )
        self.shortcut = (
            nn.Identity() if channels_in == width else ConvNorm(channels_in, width, 1, rank=1, activation="none")
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


class TemporalNet(nn.Module):
    """Blocks, each of twice the dilation of the one before; average over time, optional dropout, linear classifier.

    Dropout stands after the last BatchNorm (Li et al. 2019, arXiv:1801.05134).

    Shapes:
        x (N, channels, length) -> logits (N, classes); any length.
    """

    def __init__(self, channels: int, classes: int, *, widths: Sequence[int], kernel_size: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block, width in enumerate(widths):
            layers.append(TemporalBlock(channels, width, kernel_size, dilation=2**block))
            channels = width
        self.blocks = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        features = self.blocks(x)  # (N, C, length) -> (N, widths[-1], length)
        pooled = global_average(features)  # (N, widths[-1])
        logits: Tensor = self.classifier(self.dropout(pooled))  # (N, classes)
        return logits


def temporal(
    input_shape: Sequence[int],
    classes: int,
    *,
    widths: Sequence[int] = (32, 64, 64),
    kernel_size: int = 3,
    dropout: float = 0.0,
) -> TemporalNet:
    """Build a network for sequences.

    Args:
        input_shape: (channels, length).
        classes: number of logits.
        widths: channels of each block; block i has dilation 2^i.
        kernel_size: odd length of every kernel.
        dropout: probability, before the classifier.

    Raises:
        ArchitectureError: pictures or rows instead of sequences, or a wrong option.
    """
    if len(input_shape) != 2:
        raise ArchitectureError(
            f"A temporal network takes samples of shape (channels, length), got {list(input_shape)}; in an .npz, an "
            "array 'channels' with the names of the channels makes 'x' sequences (N, channels, length)."
        )
    check_counts("widths", widths)
    check_count("kernel_size", kernel_size)
    check_dropout(dropout)
    return TemporalNet(input_shape[0], classes, widths=widths, kernel_size=kernel_size, dropout=dropout)

"""Temporal convolutional network for sequences: residual blocks of dilated convolutions over time.

Source: Bai et al. 2018, arXiv:1803.01271, with BatchNorm in the place of weight normalisation, and with symmetric
instead of causal padding, since the network classifies whole sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from normfold.models.architectures.arg_checks import check_count, check_counts, check_dropout
from normfold.models.architectures.blocks import ConvBatchNorm
from normfold.models.architectures.classifier import PooledClassifier
from normfold.models.errors import ArchitectureError


class TemporalBlock(nn.Module):
    """y = relu(F(x) + shortcut(x)); F is two dilated ConvBatchNorm layers, the second without activation.

    The shortcut is the identity, or a ConvBatchNorm of kernel size 1 where the number of channels changes.

    Shapes:
        x (N, channels_in, length) -> y (N, width, length).
    """

    def __init__(self, channels_in: int, width: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            ConvBatchNorm(channels_in, width, kernel_size, rank=1, dilation=dilation),
            ConvBatchNorm(width, width, kernel_size, rank=1, dilation=dilation, activation="none"),
        )
        self.shortcut = (
            nn.Identity() if channels_in == width else ConvBatchNorm(channels_in, width, 1, rank=1, activation="none")
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


class TemporalNet(PooledClassifier):
    """Temporal blocks, each of twice the dilation of the one before, then the head of PooledClassifier.

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
        self.add_head(channels, classes, dropout)

    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.blocks(x)  # (N, C, length) -> (N, widths[-1], length)
        return features


def temporal(
    input_shape: Sequence[int],
    classes: int,
    *,
    widths: Sequence[int] = (32, 64, 64),
    kernel_size: int = 3,
    dropout: float = 0.0,
) -> TemporalNet:
    """Build a temporal convolutional network for sequences.

    Args:
        input_shape: (channels, length).
        classes: number of logits.
        widths: channels of each block; block i has dilation 2^i.
        kernel_size: length of every kernel; odd.
        dropout: probability, before the classifier.

    Raises:
        ArchitectureError: samples that are not sequences, or a wrong option.
    """
    if len(input_shape) != 2:
        raise ArchitectureError(
            f"A temporal network takes samples of shape (channels, length), got {list(input_shape)}. In an .npz file, "
            "an array 'channels' with the channels' names marks 'x' as sequences (N, channels, length)."
        )
    check_counts("widths", widths)
    check_count("kernel_size", kernel_size)
    check_dropout(dropout)
    return TemporalNet(input_shape[0], classes, widths=widths, kernel_size=kernel_size, dropout=dropout)

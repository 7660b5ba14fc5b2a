"""Densely connected networks: every layer reads the outputs of all layers before it in its block.

Only the BatchNorm between a layer's two convolutions folds; the input of the first has other readers.

Source: Huang et al. 2017, arXiv:1608.06993, with bottlenecks and compression (DenseNet-BC).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normfold.models.architectures.arg_checks import (
    check_count,
    check_counts,
    check_dropout,
    check_fraction,
    check_image_shape,
    check_min_size,
)
from normfold.models.architectures.blocks import BatchNormActivation, PreActivationConv
from normfold.models.architectures.classifier import PooledClassifier
from normfold.models.architectures.stem import Stem, make_stem, stem_stride
from normfold.models.errors import ArchitectureError

BOTTLENECK = 4
"""Channels between a layer's two convolutions, as a multiple of the growth rate (section 3 of the paper)."""


class DenseLayer(nn.Module):
    """y = concat(x, F(x)); F is a 1 × 1 and a 3 × 3 PreActivationConv.

    Shapes:
        x (N, channels_in, H, W) -> y (N, channels_in + growth_rate, H, W).
    """

    def __init__(self, channels_in: int, growth_rate: int) -> None:
        super().__init__()
        between = BOTTLENECK * growth_rate
        self.layers = nn.Sequential(
            PreActivationConv(channels_in, between, 1), PreActivationConv(between, growth_rate, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layers(x)], dim=1)


class DenseNet(PooledClassifier):
    """Stem, dense blocks with transitions between them, BatchNorm and relu, then the head of PooledClassifier.

    A transition is a 1 × 1 PreActivationConv with fewer channels and an average pool of stride 2. The paper has a
    dropout after every convolution; here there is one, after the last BatchNorm.

    Shapes:
        x (N, C, H, W) -> logits (N, classes).
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        depths: Sequence[int],
        growth_rate: int,
        compression: float,
        stem: Stem,
        dropout: float,
    ) -> None:
        super().__init__()
        channels = 2 * growth_rate
        self.stem = make_stem(input_shape, channels, stem)
        layers: list[nn.Module] = []
        for block, depth in enumerate(depths):
            if block > 0:
                compressed = int(channels * compression)
                if compressed < 1:
                    raise ArchitectureError(f"A compression of {compression:g} leaves none of {channels} channels.")
                layers += [PreActivationConv(channels, compressed, 1), nn.AvgPool2d(2)]
                channels = compressed
            for _ in range(depth):
                layers.append(DenseLayer(channels, growth_rate))
                channels += growth_rate
        self.blocks = nn.Sequential(*layers)
        self.last = BatchNormActivation(channels)
        self.add_head(channels, classes, dropout)

    def features(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (N, C, H, W) -> (N, 2 * growth_rate, H / stem stride, W / stem stride)
        features: Tensor = self.last(self.blocks(x))  # (N, channels, H', W'), half the size after each transition
        return features


def densenet(
    input_shape: Sequence[int],
    classes: int,
    *,
    depths: Sequence[int] = (4, 4),
    growth_rate: int = 12,
    compression: float = 0.5,
    stem: Stem = "auto",
    dropout: float = 0.0,
) -> DenseNet:
    """Build a densely connected network.

    Args:
        input_shape: (channels, height, width).
        classes: number of logits.
        depths: layers in each dense block; the size is halved between blocks.
        growth_rate: channels that each layer adds.
        compression: fraction of the channels that a transition keeps, above 0 and at most 1.
        stem: see `normfold.models.architectures.stem.make_stem`; its width is twice the growth rate.
        dropout: probability, before the classifier.

    Raises:
        ArchitectureError: samples that are not images, images too small for the blocks, or a wrong option.
    """
    check_image_shape("densenet", input_shape)
    check_counts("depths", depths)
    check_count("growth_rate", growth_rate)
    check_fraction("compression", compression)
    check_dropout(dropout)
    smallest = stem_stride(input_shape, stem) * 2 ** (len(depths) - 1)
    check_min_size(input_shape, smallest, f"{len(depths)} dense blocks", "depths")
    return DenseNet(
        input_shape,
        classes,
        depths=depths,
        growth_rate=growth_rate,
        compression=compression,
        stem=stem,
        dropout=dropout,
    )

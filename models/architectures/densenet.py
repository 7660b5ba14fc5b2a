"""Densely connected networks: every layer reads all that came before it in its block.

Source: Huang et al. 2017, arXiv:1608.06993, with bottlenecks and compression (DenseNet-BC). A layer normalises what it
reads, and others read that too, so that only the BatchNorm between a layer's two convolutions folds.
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
    check_picture,
)
from normfold.models.architectures.blocks import NormActivation, NormConv, global_average, initialise
from normfold.models.architectures.stem import Stem, make_stem, stem_stride
from normfold.models.errors import ArchitectureError

BOTTLENECK = 4
"""Channels between a layer's two convolutions, in growth rates: section 3 of the paper."""


class DenseLayer(nn.Module):
    """y = [x, F(x)], F a 1 × 1 and a 3 × 3 convolution, each after its BatchNorm and relu.

    Shapes:
        x (N, channels_in, H, W) -> y (N, channels_in + growth_rate, H, W).
    """

    def __init__(self, channels_in: int, growth_rate: int) -> None:
        super().__init__()
        between = BOTTLENECK * growth_rate
        self.layers = nn.Sequential(NormConv(channels_in, between, 1), NormConv(between, growth_rate, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layers(x)], dim=1)


class DenseNet(nn.Module):
    """Stem, dense blocks with transitions between them, BatchNorm, global average, optional dropout, linear classifier.

    A transition is a BatchNorm, a relu, a narrowing 1 × 1 convolution and an average pool. Dropout stands after the
    last BatchNorm, rather than after every convolution as in the paper (Li et al. 2019, arXiv:1801.05134).

    Shapes:
        x (N, channels, H, W) -> logits (N, classes).
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
                narrow = int(channels * compression)
                if narrow < 1:
                    raise ArchitectureError(f"A compression of {compression:g} leaves no channel of {channels}.")
                layers += [NormConv(channels, narrow, 1), nn.AvgPool2d(2)]
                channels = narrow
            for _ in range(depth):
                layers.append(DenseLayer(channels, growth_rate))
                channels += growth_rate
        self.blocks = nn.Sequential(*layers)
        self.last = NormActivation(channels)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        features = self.last(self.blocks(self.stem(x)))  # (N, C, H, W) -> (N, channels, H', W')
        pooled = global_average(features)  # (N, channels)
        logits: Tensor = self.classifier(self.dropout(pooled))  # (N, classes)
        return logits


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
        compression: of the channels, how many go on from a block into the next.
        stem: see `models.architectures.stem.make_stem`; it gives twice the growth rate.
        dropout: probability, before the classifier.

    Raises:
        ArchitectureError: rows instead of pictures, a picture too small for the blocks, or a wrong option.
    """
    check_picture("densenet", input_shape)
    check_counts("depths", depths)
    check_count("growth_rate", growth_rate)
    check_fraction("compression", compression)
    check_dropout(dropout)
    smallest = stem_stride(input_shape, stem) * 2 ** (len(depths) - 1)
    if min(input_shape[1:]) < smallest:
        raise ArchitectureError(
            f"{len(depths)} dense blocks need a size of at least {smallest} along both axes, got "
            f"{list(input_shape[1:])}; give fewer depths."
        )
    return DenseNet(
        input_shape,
        classes,
        depths=depths,
        growth_rate=growth_rate,
        compression=compression,
        stem=stem,
        dropout=dropout,
    )
